# frozen_string_literal: true

require_relative "helper"
require "json"
require "pp"
require "yaml"

class SecretsTest < Minitest::Test
  include WithAuthority

  # The key in every form in which it could stand somewhere.
  def forms(key)
    body = key.lines.grep_v(/-----/).map(&:strip)
    [key, *body, body.join.unpack1("m")]
  end

  def assert_hidden(key, text)
    shown = forms(key).select { |form| text.b.include?(form.b) }
    assert_empty shown, text
  end

  def test_no_text_about_an_object_holds_the_key
    issued = authority.issue(hosts: "n001")
    key = issued.key
    ca_key = File.read(File.join(@pki, "ca.key"))
    [issued, authority].each do |object|
      [object.inspect, object.to_s, object.pretty_inspect, [object].inspect, "#{object}", object.to_enum.inspect,
       JSON.generate([object])].each do |text|
        assert_hidden(key, text)
        assert_hidden(ca_key, text)
      end
    end
    assert_hidden(key, issued.to_h.inspect + issued.as_json.inspect + issued.certificate.inspect)
  end

  def test_no_text_of_an_exception_holds_the_key
    issued = authority.issue(hosts: "n001")
    key = issued.key
    errors = [
      -> { issued.no_such_method },
      -> { authority.verify(issued, key: "#{key}x") },
      -> { authority.verify(key) },
      -> { authority.sign_csr(key, hosts: "n001") },
      -> { authority.issue(hosts: key) },
      -> { authority.issue(hosts: "n001", bad: issued) }
    ].map { |call| assert_raises(StandardError, &call) }
    errors.each { |error| assert_hidden(key, [error.full_message, error.inspect, error.to_s].map(&:b).join) }
  end

  def test_what_holds_a_key_cannot_be_dumped
    issued = authority.issue(hosts: "n001")
    [issued, authority].each do |object|
      assert_raises(TypeError) { Marshal.dump(object) }
      assert_raises(TypeError) { Marshal.dump([object]) }
      assert_raises(TypeError) { YAML.dump(object) }
    end
  end

  def test_a_key_lent_to_a_block_is_wiped_afterwards
    issued = authority.issue(hosts: "n001")
    kept = nil
    answer = issued.key do |pem|
      kept = pem
      OpenSSL::PKey.read(pem)
      :answer
    end
    assert_equal :answer, answer
    assert_equal "\0" * kept.bytesize, kept
    assert_raises(RuntimeError) { issued.key { |pem| kept = pem; raise "no" } }
    assert_equal "\0" * kept.bytesize, kept
    assert OpenSSL::PKey.read(issued.key)
  end
end
