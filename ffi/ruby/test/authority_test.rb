# frozen_string_literal: true

require_relative "helper"

class AuthorityTest < Minitest::Test
  include WithAuthority

  def test_the_first_line_of_the_documentation_works_for_a_user_with_nothing_in_place
    Dir.mktmpdir do |home|
      said, trouble, status = ruby('puts OodCa::Authority.open.issue(hosts: ["n001"]).not_after',
                                   arguments: ["-rood_ca"], env: { "OOD_CA_CONFIG" => nil, "HOME" => home })
      assert status.success?, trouble
      assert_path_exists File.join(home, ".ood/pki/ca.crt")
      assert_in_delta 35 * 86_400, Time.new(*said.scan(/\d+/).first(6).map(&:to_i), "UTC") - Time.now, 3600
    end
  end

  def test_a_server_leaf_names_what_it_was_asked_for
    issued = authority.issue(hosts: %w[n001 n001.cluster.example], ips: ["10.0.0.5", "fd00::5"], ttl: 3600)
    leaf = issued.certificate
    assert_equal :server, leaf.kind
    assert_equal %w[n001 n001.cluster.example 10-0-0-5.ip.ood.internal], leaf.names.grep_v(/^fd/)
    assert_equal ["10.0.0.5", "fd00::5"], leaf.addresses
    assert_in_delta Time.now + 3600, leaf.not_after, 60
    assert_operator leaf.not_before, :<, Time.now
    refute_predicate leaf, :expired?
    assert leaf.expired?(at: Time.now + 7200)
    assert_predicate issued, :recorded?
    assert_empty issued.notices
  end

  def test_openssl_reads_what_is_issued
    issued = authority.issue(hosts: "n001")
    certificate = OpenSSL::X509::Certificate.new(issued.pem)
    key = OpenSSL::PKey.read(issued.key)
    assert certificate.check_private_key(key)
    assert certificate.verify(OpenSSL::X509::Certificate.new(issued.trust).public_key)
    assert_equal certificate.serial.to_s(16).downcase, issued.serial
    assert_equal certificate.not_after, issued.not_after
    assert_equal certificate.not_before, issued.not_before
    assert_equal OpenSSL::Digest::SHA256.hexdigest(certificate.to_der), issued.certificate.fingerprint
    assert_equal certificate.to_text, OpenSSL::X509::Certificate.new(issued.certificate.pem).to_text
  end

  def test_without_a_name_it_is_for_this_machine
    refute_empty authority.issue.certificate.names
  end

  def test_any_host_names_none
    assert_equal ["server.ood.internal"], authority.issue(any_host: true).certificate.names
  end

  def test_a_longer_life_than_the_site_allows_is_shortened_and_said
    issued = authority.issue(hosts: "n001", ttl: 10 * 365 * 86_400)
    assert_in_delta Time.now + (35 * 86_400), issued.not_after, 60
    refute_empty issued.notices
  end

  def test_what_is_not_recorded_leaves_nothing_behind
    before = authority.issued.map(&:serial)
    issued = authority.issue(hosts: "n001", record: false)
    refute_predicate issued, :recorded?
    assert_equal before, authority.issued.map(&:serial)
  end

  def test_a_client_leaf_is_the_users
    leaf = authority.issue_client(ttl: 3600).certificate
    assert_equal :client, leaf.kind
    assert_equal Etc.getpwuid.name, leaf.subject
    assert authority.verify(leaf, as: :client).valid?
    refute authority.verify(leaf, as: :server).valid?
  end

  def test_a_request_is_signed_and_its_key_stays_where_it_is
    key = OpenSSL::PKey::EC.generate("prime256v1")
    request = OpenSSL::X509::Request.new
    request.subject = OpenSSL::X509::Name.parse("/CN=ignored")
    request.public_key = key
    request.sign(key, "SHA256")
    [request.to_pem, request.to_der].each do |csr|
      issued = authority.sign_csr(csr, hosts: ["n001"], ttl: 3600)
      assert_nil issued.key
      assert_equal ["n001"], issued.certificate.names
      assert OpenSSL::X509::Certificate.new(issued.pem).check_private_key(key)
    end
    assert_equal :client, authority.sign_csr(request.to_pem, as: :client).certificate.kind
  end

  def test_the_web_servers_leaf_is_renewed_when_it_is_due_and_not_before
    first = authority.info.client
    assert_nil authority.renew_if_due
    assert_equal first, authority.info.client
    renewed = authority.renew_if_due(force: true)
    assert_nil renewed.key
    assert_equal renewed.certificate, authority.info.client
    refute_equal first, authority.info.client
  end

  def test_the_trust_bundle_is_what_is_trusted
    assert_equal authority.trust_bundle, File.read(File.join(@pki, "trust.crt"))
    assert_equal authority.info.trusted.map(&:pem).join, authority.trust_bundle
  end

  def test_a_verification_says_what_is_wrong
    issued = authority.issue(hosts: "n001")
    good = authority.verify(issued, host: "n001", key: issued.key)
    assert good.valid?
    assert_nil good.reason
    assert_equal issued.certificate, good.certificate

    other = authority.verify(issued, host: "n002")
    refute other.valid?
    assert_match(/n002/, other.reason)
    refute authority.verify(issued, at: Time.now + (40 * 86_400)).valid?
    # What is empty was forgotten, and is no wish that it be not checked.
    [{ host: "" }, { key: "" }, { trust: "" }, { at: Time.at(0) }].each do |empty|
      assert_raises(OodCa::ArgumentInvalid, empty.inspect) { authority.verify(issued, **empty) }
    end
    assert_raises(TypeError) { authority.verify(issued, at: 1) }
    assert_raises(TypeError) { authority.issue(hosts: nil) }
    refute authority.verify(issued, key: authority.issue(hosts: "n001").key).valid?

    stranger = OodCa::Authority.open(pki_dir: File.join(@home, "other"))
    refute stranger.verify(issued.pem).valid?
    assert stranger.verify(issued.pem, trust: issued.trust).valid?
  end

  def test_the_record_has_what_was_issued
    leaf = authority.issue(hosts: "n001").certificate
    record = authority.issued
    assert_includes record, leaf
    assert_equal %i[authority client server], record.map(&:kind).sort
    assert_equal record.size, record.to_a.size
    assert_equal record.sort_by(&:not_after).map(&:serial), record.map(&:serial)
    assert_empty record.unreadable
    File.write(File.join(@pki, "issued", "#{'0' * 32}.crt"), "nothing")
    assert_equal ["#{'0' * 32}.crt"], authority.issued.unreadable
    assert_equal record.size, authority.issued(alive: true).size
  end

  def test_info_needs_no_open_authority_and_creates_none
    assert_raises(OodCa::NoAuthority) { OodCa.info(pki_dir: @pki) }
    refute File.exist?(@pki)
    authority
    info = OodCa.info(pki_dir: @pki)
    assert_equal @pki, info.pki_dir
    assert_equal :settled, info.phase
    refute_predicate info, :expired?
    assert_equal :authority, info.authority.kind
    assert_equal [info.authority], info.trusted
    assert_equal :client, info.client.kind
    refute_predicate info, :client_due?
    assert_operator info.client_due_at, :<, info.client.not_after
    assert_match(/not due/, info.client_reason)
    assert_equal 35 * 86_400, info.leaf_lifetime
    assert_equal 35 * 86_400, info.max_leaf_lifetime
  end

  def test_the_sites_settings_count
    config = File.join(@home, "ood_ca.yml")
    File.write(config, "pki_dir: #{@home}/elsewhere\nkey_type: ed25519\nleaf_lifetime: 2d\n")
    authority = OodCa::Authority.open(config: config)
    assert File.directory?(File.join(@home, "elsewhere"))
    assert_equal "ed25519", authority.issue(hosts: "n001").certificate.key_type
    assert_equal 2 * 86_400, authority.info.leaf_lifetime
  end

  def test_what_is_written_is_what_ood_ca_writes
    issued = authority.issue(hosts: "n001")
    paths = issued.write(@home)
    assert_equal %w[server.key server.crt trust.crt], paths.map { |path| File.basename(path) }
    assert_equal [0o600, 0o644, 0o644], paths.map { |path| File.stat(path).mode & 0o777 }
    assert_equal [issued.key, issued.pem, issued.trust], paths.map { |path| File.read(path) }
    # A second time, and with nothing left beside them.
    authority.issue(hosts: "n002").write(@home)
    assert_equal %w[pki server.crt server.key trust.crt], Dir.children(@home).sort
  end

  def test_the_locations_of_a_user_are_rendered
    config = File.join(@home, "ood_ca.yml")
    resolv_conf = File.join(@home, "resolv.conf")
    File.write(config, "host_regex: 'n[0-9]+'\ndomain: cluster.example\n")
    File.write(resolv_conf, "nameserver 10.0.0.2\n")
    snippet = OodCa.render(user: "alice", home: "/home/alice", nginx_version: "1.22.1",
                           config: config, resolv_conf: resolv_conf)
    assert_match(%r{location \^~ /pun/proxy/}, snippet.to_s)
    assert_match(%r{"/home/alice/\.ood/pki"}, snippet.text)
    assert_kind_of Array, snippet.notices
    assert_raises(OodCa::Error) do
      OodCa.render(user: "a$b", home: "/home/alice", nginx_version: "1.22.1", config: config, resolv_conf: resolv_conf)
    end
  end

  def test_the_versions_are_those_of_one_release
    assert_equal OodCa::VERSION, OodCa.version
    assert_equal [0, 1], OodCa.abi_version
  end

  def test_values_do_not_change
    issued = authority.issue(hosts: "n001")
    values = [authority, issued, issued.certificate, issued.certificate.names, issued.certificate.not_after,
              issued.notices, authority.info, authority.info.trusted, authority.issued, authority.issued.certificates,
              authority.verify(issued)]
    values.each { |value| assert_predicate value, :frozen?, value.class }
    same = authority.verify(issued).certificate
    assert_equal issued.certificate, same
    assert_equal 1, [issued.certificate, same].uniq.size
    refute_equal issued.certificate, authority.issue(hosts: "n001").certificate
  end
end
