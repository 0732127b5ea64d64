# frozen_string_literal: true

require_relative "helper"

class ErrorsTest < Minitest::Test
  include WithAuthority

  def refused(type)
    error = assert_raises(type) { yield }
    assert_kind_of OodCa::Error, error
    refute_empty error.message
    refute_includes error.message, "\n"
    error
  end

  def test_an_error_has_a_word_a_number_and_a_hint
    error = refused(OodCa::ArgumentInvalid) { authority.issue(hosts: "bad host") }
    assert_equal "bad-name", error.code
    assert_equal 110, error.status
    assert_match(/use letters/, error.hint)
    assert_equal Encoding::UTF_8, error.message.encoding
  end

  def test_each_kind_of_error_has_a_class
    assert_equal "no-authority", refused(OodCa::NoAuthority) { OodCa::Authority.open(pki_dir: @pki, create: false) }.code
    refused(OodCa::RequestRefused) { authority.sign_csr("garbage", hosts: "n001") }
    refused(OodCa::ArgumentInvalid) { authority.issue(hosts: "n001", ttl: 1) }
    refused(OodCa::ArgumentInvalid) { authority.issue(hosts: "n001", ttl: 0) }
    refused(OodCa::VerificationError) { authority.verify("garbage") }

    config = File.join(@home, "ood_ca.yml")
    File.write(config, "leaf_lifetimes: 2d\n")
    error = refused(OodCa::ConfigError) { OodCa::Authority.open(config: config) }
    assert_match(/ood_ca\.yml.*leaf_lifetimes/, error.message)

    File.chmod(0o644, File.join(@pki, "ca.key"))
    error = refused(OodCa::UnsafePath) { OodCa::Authority.open(pki_dir: @pki) }
    assert_match(/chmod/, error.hint)
  end

  def test_all_of_them_can_be_rescued_at_once
    [OodCa::LibraryError, OodCa::NoSpace, OodCa::AuthorityExpired, OodCa::RenderError, OodCa::InternalError].each do |type|
      assert_operator type, :<, OodCa::Error
    end
    assert_operator OodCa::Error, :<, StandardError
  end

  def test_a_wrong_type_is_named_and_not_shown
    secret = "-----BEGIN PRIVATE KEY-----"
    error = assert_raises(TypeError) { authority.verify("x", key: { secret => secret }) }
    assert_match(/key must be a String/, error.message)
    refute_includes error.full_message, secret
    assert_raises(TypeError) { authority.issue(hosts: [nil]) }
    assert_raises(TypeError) { authority.issue(hosts: "n001", ttl: "35d") }
    assert_raises(TypeError) { OodCa::Authority.open(pki_dir: 5) }
    assert_raises(ArgumentError) { authority.verify("x", as: :both) }
  end

  def test_text_that_is_not_utf_8_is_refused
    assert_equal "not-utf8", refused(OodCa::ArgumentInvalid) { authority.issue(hosts: "n\xff") }.code
    refused(OodCa::ArgumentInvalid) { authority.issue(hosts: "n\0") }
    refused(OodCa::ArgumentInvalid) { authority.issue(hosts: "n" * 100_000) }
    assert_equal ["n001"], authority.issue(hosts: "n001".encode("UTF-16LE")).certificate.names
  end

  def test_an_authority_that_is_gone_is_said_to_be
    authority
    FileUtils.rm_rf(@pki)
    refused(OodCa::NoAuthority) { authority.issue(hosts: "n001") }
  end
end
