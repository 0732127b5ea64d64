# frozen_string_literal: true

require_relative "helper"
require "erb"
require "logger"
require "ostruct"
require "yaml"

# The folders that an administrator copies, read as the dashboard reads them.
class ExamplesTest < Minitest::Test
  EXAMPLES = File.expand_path("../examples", __dir__)
  APPS = %w[header_viewer jupyter_mtls].freeze

  def render(path, values = {})
    ERB.new(File.read(File.join(EXAMPLES, path)), trim_mode: "-").result_with_hash(values)
  end

  def assert_clean(script, *arguments)
    found, status = Open3.capture2e("shellcheck", "--shell=bash", *arguments, "-", stdin_data: script)
    assert status.success?, found
  end

  def test_each_app_has_what_the_dashboard_looks_for
    assert_equal APPS, Dir.children(EXAMPLES).select { |name| File.directory?(File.join(EXAMPLES, name)) }.sort
    APPS.each do |app|
      manifest = YAML.safe_load(File.read(File.join(EXAMPLES, app, "manifest.yml")))
      assert_equal "batch_connect", manifest["role"]
      form = YAML.safe_load(File.read(File.join(EXAMPLES, app, "form.yml")))
      assert form["cluster"]
      assert_empty form["attributes"].keys - form["form"]
      submit = YAML.safe_load(render("#{app}/submit.yml.erb"))
      assert_equal "mtls_basic", submit["batch_connect"]["template"]
    end
  end

  def test_the_view_leads_through_the_mutual_tls_locations
    page = render("header_viewer/view.html.erb", host: "n001", port: 8443)
    assert_includes page, 'href="/pun/rproxy/n001/8443/"'
    page = render("jupyter_mtls/view.html.erb", host: "n001", port: 8443)
    assert_includes page, 'href="/pun/proxy/n001/8443/lab"'
  end

  def test_the_scripts_pass_shellcheck
    context = OpenStruct.new(modules: "python/3.11 jupyter")
    APPS.each do |app|
      assert_clean render("#{app}/template/script.sh.erb", context: context)
      assert_clean render("#{app}/template/before.sh.erb", context: context), "--exclude=SC2034,SC2154"
    end
  end

  def test_what_a_form_says_is_not_run
    Dir.mktmpdir do |dir|
      hostile = "a'; touch #{dir}/1; $(touch #{dir}/2) `touch #{dir}/3`\nOOD_FORM\ntouch #{dir}/4 \""
      script = render("jupyter_mtls/template/script.sh.erb", context: OpenStruct.new(modules: hostile))
      stub = "module () { printf '<%s>' \"$@\"; }; jupyter () { :; }\n"
      said, = Open3.capture2e({ "port" => "1", "host" => "n001", "HOME" => dir }, "bash", stdin_data: stub + script)
      assert_includes said, "<load><a';><touch>"
      assert_empty Dir.children(dir)
    end
  end

  def test_the_initializer_renews_and_says_when_it_ends
    Dir.mktmpdir do |home|
      text = File.read(File.join(EXAMPLES, "dashboard_initializer.rb")).gsub("/usr/share/ood-ca/ruby/lib", LIB)
      rails = "require 'logger'; module Rails; def self.logger; @logger ||= Logger.new($stdout); end; end\n"
      run = ->(env) { Open3.capture2e({ "HOME" => home }.merge(env), RbConfig.ruby, stdin_data: rails + text) }
      said, status = run.call({})
      assert status.success?, said
      assert_match(/INFO.*ends on \d{4}-/, said)
      # Without the library the dashboard starts all the same.
      said, status = run.call("OOD_CA_LIB" => "/nowhere")
      assert status.success?, said
      assert_match(/WARN.*cannot be loaded.*install it/, said)
      # Nor does it need the gem.
      bare = rails + text.gsub(LIB, "/nowhere")
      said, status = Open3.capture2e({ "HOME" => home, "RUBYLIB" => nil, "RUBYOPT" => nil }, RbConfig.ruby, stdin_data: bare)
      assert status.success?, said
      assert_match(/WARN.*cannot load such file/, said)
    end
  end
end
