# frozen_string_literal: true

require_relative "helper"

# How the library is found. Each in a process of its own.
class LoadTest < Minitest::Test
  def load(env)
    ruby('begin; require "ood_ca"; puts OodCa.version
          rescue StandardError => e; puts "#{e.class}: #{e.message}\nhint: #{e.hint}"; end', env: env).first
  end

  def given
    ENV.fetch("OOD_CA_LIB")
  end

  def test_a_file_or_its_directory_can_be_named
    assert_equal "0.1.0\n", load("OOD_CA_LIB" => given)
    Dir.mktmpdir do |dir|
      File.symlink(given, File.join(dir, "libood_ca.so.0"))
      assert_equal "0.1.0\n", load("OOD_CA_LIB" => dir)
    end
  end

  def test_what_is_named_and_missing_is_not_looked_for_elsewhere
    said = load("OOD_CA_LIB" => "/nowhere/libood_ca.so")
    assert_match(%r{\AOodCa::LibraryError: .*/nowhere/libood_ca\.so}, said)
    assert_match(/^hint: .*OOD_CA_LIB/, said)
  end

  def test_the_gems_own_directory_comes_before_the_systems
    Dir.mktmpdir do |dir|
      FileUtils.cp_r(LIB, dir)
      FileUtils.cp(given, File.join(dir, "lib", "libood_ca.so.0"))
      said, = Open3.capture2e({ "OOD_CA_LIB" => nil }, RbConfig.ruby, "-I", File.join(dir, "lib"), "-rood_ca", "-e",
                              'puts File.read("/proc/self/maps")[%r{/.*libood_ca.*}]')
      assert_equal "#{File.realpath(dir)}/lib/libood_ca.so.0\n", said
    end
  end

  def test_the_system_comes_last
    Dir.mktmpdir do |dir|
      FileUtils.cp(given, File.join(dir, "libood_ca.so.0"))
      assert_equal "0.1.0\n", load("OOD_CA_LIB" => "", "LD_LIBRARY_PATH" => dir)
    end
  end

  def test_another_library_is_told_by_what_it_lacks
    libc = File.read("/proc/self/maps")[%r{/\S*libc\.so\.6}]
    assert_match(/\AOodCa::LibraryError: .*is not libood_ca/, load("OOD_CA_LIB" => libc))
  end

  def test_another_abi_is_refused
    said, = ruby(<<~'SCRIPT', env: { "OOD_CA_LIB" => given })
      # What this process loads says that it is of another time.
      require "ffi"
      module FFI::Library
        alias really attach_function
        def attach_function(name, *arguments, **options)
          really(name, *arguments, **options)
          define_singleton_method(name) { Integer(ENV.fetch("ABI")) } if name == :ood_ca_abi_version
        end
      end
      ["65537", "0", "2"].each do |abi|
        ENV["ABI"] = abi
        begin
          $LOADED_FEATURES.delete_if { |file| file.include?("ood_ca") }
          Object.send(:remove_const, :OodCa) if defined?(OodCa)
          require "ood_ca"
          puts "#{abi}: loaded"
        rescue StandardError => e
          puts "#{abi}: #{e.class}: #{e.message}"
        end
      end
    SCRIPT
    assert_match(/^65537: OodCa::LibraryError: .*has ABI 1\.1.*needs 0\.1/, said)
    assert_match(/^0: OodCa::LibraryError: .*has ABI 0\.0/, said)
    assert_match(/^2: loaded/, said)
  end

  def test_the_templates_need_no_library
    said, trouble, = ruby('require "ood_ca/batch_connect"; puts OodCa::BatchConnect.functions.lines.size > 100',
                          env: { "OOD_CA_LIB" => "/nowhere" })
    assert_equal "true\n", said, trouble
  end
end
