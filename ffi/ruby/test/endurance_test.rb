# frozen_string_literal: true

require_relative "helper"

class EnduranceTest < Minitest::Test
  include WithAuthority

  def test_ten_thousand_issues_leave_memory_as_it_was
    issue = lambda do |n|
      issued = authority.issue(hosts: "n#{n}", record: false)
      issued.key
      issued.certificate.names
    end
    1_000.times(&issue)
    GC.start
    before = resident
    10_000.times(&issue)
    GC.start
    # One that is not freed has several KiB: together more than 30 MiB.
    assert_operator resident - before, :<, 8 * 1024, "KiB more after 10 000 issues"
  end

  def test_errors_leave_memory_as_it_was
    refuse = ->(_) { assert_raises(OodCa::Error) { authority.issue(hosts: "bad host") } }
    1_000.times(&refuse)
    GC.start
    before = resident
    5_000.times(&refuse)
    GC.start
    assert_operator resident - before, :<, 2 * 1024, "KiB more after 5 000 errors"
  end

  def test_eight_threads_share_an_authority
    serials = Array.new(8) do |t|
      Thread.new do
        Array.new(50) do |n|
          issued = authority.issue(hosts: "t#{t}-#{n}", record: n.even?)
          assert_equal ["t#{t}-#{n}"], issued.certificate.names
          assert OpenSSL::X509::Certificate.new(issued.pem).check_private_key(OpenSSL::PKey.read(issued.key))
          issued.serial
        end
      end
    end.flat_map(&:value)
    assert_equal 400, serials.uniq.size
    assert_equal 200, authority.issued.count { |c| c.kind == :server }
  end

  def test_eight_threads_create_one_authority
    trusted = Array.new(8) { Thread.new { OodCa::Authority.open(pki_dir: @pki).trust_bundle } }.map(&:value)
    assert_equal 1, trusted.uniq.size
  end

  def test_a_forked_process_uses_and_frees_what_was_open
    issued = authority.issue(hosts: "n001")
    key = issued.key
    child = in_child do
      own = Array.new(20) { |n| authority.issue(hosts: "c#{n}").serial }
      same = issued.key == key && authority.verify(issued, host: "n001").valid?
      [own, same, authority.renew_if_due.nil?].tap { GC.start }
    end
    assert_kind_of Array, child, child
    own, same, nothing_due = child
    assert same
    assert nothing_due
    ours = Array.new(20) { |n| authority.issue(hosts: "p#{n}").serial }
    assert_equal 40, (own + ours).uniq.size
    assert_equal key, issued.key
  end

  def test_a_process_forked_while_threads_are_issuing_can_issue
    busy = true
    threads = Array.new(4) { Thread.new { authority.issue(hosts: "n001", record: false) while busy } }
    10.times { assert_match(/\A\h+\z/, in_child { authority.issue(hosts: "n002").serial }) }
  ensure
    busy = false
    threads.each(&:join)
  end

  def test_a_rotated_authority_is_noticed_by_an_open_handle
    first = authority.issue(hosts: "n001")
    # What another host's rotation would look like: everything is another's.
    other = File.join(@home, "other")
    OodCa::Authority.open(pki_dir: other)
    FileUtils.mv(@pki, File.join(@home, "old"))
    FileUtils.mv(other, @pki)
    second = authority.issue(hosts: "n001")
    refute_equal first.certificate.issuer, second.certificate.issuer
    assert_equal File.read(File.join(@pki, "trust.crt")), second.trust
    refute authority.verify(first).valid?
    assert authority.verify(second).valid?
  end

  def test_other_threads_run_during_key_work
    turns = 0
    done = false
    counter = Thread.new do
      until done
        turns += 1
        Thread.pass
      end
    end
    calls = 500
    worked = -> { Process.clock_gettime(Process::CLOCK_PROCESS_CPUTIME_ID) }
    before = [turns, worked.call]
    calls.times { authority.issue(hosts: "n001", record: false) }
    during, seconds = turns - before[0], worked.call - before[1]
    done = true
    counter.join
    # A call that keeps the lock gives others a turn every 100 ms of work only: a
    # handful. On a busy machine they may have few more than one in ten calls.
    most = (seconds / 0.1).ceil
    assert_operator during, :>, 2 * most, "turns of another thread during #{calls} issues"
  end
end
