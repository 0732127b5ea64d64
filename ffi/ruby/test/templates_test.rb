# frozen_string_literal: true

require_relative "helper"

# The templates against the stand-in for ood_core beside this file, or against a
# real one: OOD_CORE_LIB=/path/to/ood_core/lib.
$LOAD_PATH.unshift(ENV["OOD_CORE_LIB"] || File.expand_path("stand_in", __dir__))
require "ood_core"
require "ood_ca/batch_connect"

class TemplatesTest < Minitest::Test
  NAMES = %w[mtls_basic mtls_vnc].freeze
  EXTENDED = { "mtls_basic" => "basic", "mtls_vnc" => "vnc" }.freeze

  # Every option of ood_core's templates, with a value that shows.
  OPTIONS = {
    conn_file: "OPTION.yml", conn_params: %w[OPTION], bash_helpers: "source_helpers () { OPTION; }",
    min_port: 23_456, max_port: 34_567, password_size: 45, header: "# OPTION", footer: "# OPTION",
    script_wrapper: "# OPTION\n%s", set_host: "host=OPTION", before_script: "OPTION", before_file: "OPTION.sh",
    run_script: "OPTION", script_file: "./OPTION.sh", timeout: 56_789, after_script: "OPTION", after_file: "OPTION.sh",
    clean_script: "OPTION", clean_file: "OPTION.sh", vnc_args: "-OPTION", vnc_clean: "OPTION",
    websockify_cmd: "/OPTION"
  }.freeze

  def build(template, **context)
    OodCore::BatchConnect::Factory.build({ template: template, work_dir: "/work dir" }.merge(context))
  end

  def shell(script)
    Open3.capture2e("bash", stdin_data: script)
  end

  def assert_clean(script, *arguments)
    found, status = Open3.capture2e("shellcheck", "--shell=bash", *arguments, "-", stdin_data: script)
    assert status.success?, found
  end

  def test_the_factory_finds_them_by_name
    basic = build("mtls_basic")
    vnc = build(:mtls_vnc)
    assert_instance_of OodCore::BatchConnect::Templates::MtlsBasic, basic
    assert_instance_of OodCore::BatchConnect::Templates::MtlsVNC, vnc
    assert_kind_of OodCore::BatchConnect::Templates::Basic, basic
    assert_kind_of OodCore::BatchConnect::Templates::VNC, vnc
    with_strings = OodCore::BatchConnect::Factory.build("template" => "mtls_basic", "work_dir" => "/w")
    refute with_strings.context.key?(:template)
    assert_equal "/w", with_strings.context[:work_dir]
  end

  def test_what_the_factory_refuses_it_still_refuses
    assert_raises(LoadError) { build("mtls_none") }
    NAMES.each do |name|
      assert_raises(ArgumentError) { OodCore::BatchConnect::Factory.build(template: name) }
    end
  end

  def test_every_option_of_the_extended_template_counts
    seen = 0
    NAMES.each do |name|
      plain = build(EXTENDED[name]).to_s
      OPTIONS.each do |option, value|
        shown = build(EXTENDED[name], option => value).to_s
        next if shown == plain

        seen += 1
        mark = value.to_s[/OPTION/] || value.to_s
        assert_includes own(build(name, option => value)), mark, "#{name}: #{option}"
      end
    end
    assert_operator seen, :>=, 30
  end

  # The script without the shell functions.
  def own(template)
    script = template.to_s
    assert_includes script, "start_mtls_caddy() {"
    script.sub(/^# shellcheck shell=bash.*^export MTLS_TOP$/m, "")
  end

  def test_host_and_port_are_published
    assert_match(/host: \$\{?host\b.*port: \$\{?port\b/, build("mtls_basic").to_s)
    assert_match(/host: \$\{?host\b.*websocket: \$\{?websocket\b/, build("mtls_vnc").to_s)
  end

  def test_the_whole_desktop_is_inside_and_its_websocket_has_the_port_outside
    script = build("mtls_vnc").to_s
    inside = script[/^mtls_job \(\) \{\n(.*)^\}$/m, 1]
    assert_match(/vncserver/, inside)
    assert_operator inside.index("find_port () {\n  printf '%s\\n' \"${MTLS_PORT}\""), :<, inside.index("websocket=$(find_port)")
    # Nothing ends the sessions of another job, whose processes it does not see.
    refute_match(/vncserver -list/, script)
  end

  def test_settings_reach_the_functions_whatever_is_in_them
    hostile = %q(a b'"`id`$(id)\;{}&)
    script = build("mtls_basic", mtls_caddy: hostile, mtls_ood_ca: "/opt/ood-ca", mtls_outbound: "none",
                                 mtls_ready_timeout: 5).to_s
    exports = script.lines.grep(/^export MTLS_\w+='/).join
    said, = shell("#{exports}printf '%s\\n' \"$MTLS_CADDY\" \"$MTLS_OOD_CA\" \"$MTLS_OUTBOUND\" \"$MTLS_READY_TIMEOUT\"")
    assert_equal [hostile, "/opt/ood-ca", "none", "5"], said.lines.map(&:chomp)
  end

  def test_an_app_may_start_it_itself
    [false, "false", "no"].each do |value|
      script = own(build("mtls_basic", mtls_wrap: value))
      refute_match(/start_mtls/, script)
      assert_match(%r{^"\./script\.sh" &$}, script)
    end
    assert_match(/start_mtls "\$\{MTLS_PORT\}"/, own(build("mtls_basic")))
  end

  def test_another_file_of_functions_may_be_given
    Dir.mktmpdir do |dir|
      path = File.join(dir, "own.bash")
      File.write(path, "# a site's own\n")
      assert_includes build("mtls_basic", mtls_functions: path).to_s, "# a site's own\n"
    end
    assert_raises(Errno::ENOENT) { build("mtls_basic", mtls_functions: "/nowhere").to_s }
  end

  def test_the_functions_pass_shellcheck
    assert_clean OodCa::BatchConnect.functions
  end

  def test_what_is_generated_is_shell
    NAMES.product([{}, { mtls_wrap: false }, { timeout: 5 }, { run_script: "a\nb" }]).each do |name, context|
      script = build(name, **context).to_s
      said, status = Open3.capture2e("bash", "-n", stdin_data: script)
      assert status.success?, "#{name} #{context}: #{said}"
      # ood_core's own part has findings.
      assert_clean script, "--severity=#{ENV.key?('OOD_CORE_LIB') ? 'error' : 'warning'}", *known_findings
    end
  end

  # What is wrong in ood_core's own part, and what tells of variables that the site's
  # files set.
  def known_findings
    ENV.key?("OOD_CORE_LIB") ? ["--exclude=SC1102,SC2068"] : ["--exclude=SC2154,SC1091,SC2120"]
  end
end
