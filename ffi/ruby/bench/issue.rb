# frozen_string_literal: true

# How long one issue takes from Ruby: a key, a certificate, and both as text.
#
#   ruby -I ffi/ruby/lib ffi/ruby/bench/issue.rb memory|recorded SECONDS [DIR]
#
# Prints {"per_issue_us": N}: the median of batches of ten, in microseconds, of
# what ../../bench/issue.c does. DIR is where the PKI directory is made, and removed.
require "json"
require "tmpdir"
require "ood_ca"

BATCH = 10

mode, seconds, dir = ARGV
unless %w[memory recorded].include?(mode) && seconds.to_f.positive?
  warn "usage: issue.rb memory|recorded SECONDS [DIR]"
  exit 2
end

def now
  Process.clock_gettime(Process::CLOCK_MONOTONIC)
end

Dir.mktmpdir("ood-ca-bench-", dir) do |home|
  authority = OodCa::Authority.open(pki_dir: File.join(home, "pki"))
  recorded = mode == "recorded"
  batches = []
  ends = now + seconds.to_f
  while now < ends
    started = now
    BATCH.times do
      issued = authority.issue(hosts: ["n001.cluster.example"], ips: ["10.0.0.5"], record: recorded)
      issued.key
      issued.pem
    end
    batches << ((now - started) / BATCH * 1e6)
  end
  puts JSON.generate(per_issue_us: batches.sort[batches.size / 2].round(2))
end
