# frozen_string_literal: true

require "minitest/autorun"
require "fileutils"
require "open3"
require "openssl"
require "rbconfig"
require "tmpdir"
require "timeout"

LIB = File.expand_path("../lib", __dir__)

# What tests of the library share: a directory of their own.
module WithAuthority
  def setup
    require "ood_ca"
    @home = Dir.mktmpdir("ood-ca-ruby-")
    @pki = File.join(@home, "pki")
  end

  def teardown
    FileUtils.rm_rf(@home) if @home
  end

  def authority
    @authority ||= OodCa::Authority.open(pki_dir: @pki)
  end

  # A block in a process of its own; what it returns.
  def in_child
    reader, writer = IO.pipe
    pid = fork do
      reader.close
      answer = begin
        yield
      rescue Exception => e # rubocop:disable Lint/RescueException
        "#{e.class}: #{e.message}"
      end
      writer.write(Marshal.dump(answer))
      writer.close
      exit!(0)
    end
    writer.close
    answer = Timeout.timeout(60) { reader.read }
    Process.wait(pid)
    Marshal.load(answer)
  end

  # Resident memory in KiB.
  def resident
    File.read("/proc/self/status")[/^VmRSS:\s+(\d+)/, 1].to_i
  end
end

# Runs Ruby with this gem in a process of its own.
def ruby(script, env: {}, arguments: [])
  Open3.capture3(env, RbConfig.ruby, "-W", "-I", LIB, *arguments, "-e", script)
end
