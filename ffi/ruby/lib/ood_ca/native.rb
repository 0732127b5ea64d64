# frozen_string_literal: true

require "ffi"
require "ood_ca/error"

module OodCa
  # `ood_ca.h` in Ruby. Nothing above this file sees a pointer.
  # @api private
  module Native
    extend FFI::Library

    # The ABI that this file describes.
    ABI_MAJOR = 0
    ABI_MINOR = 1
    private_constant :ABI_MAJOR, :ABI_MINOR

    NAME = "libood_ca.so.#{ABI_MAJOR}"
    PURPOSES = { server: 0, client: 1 }.freeze
    KINDS = %i[authority server client foreign].freeze
    PHASES = %i[settled prepared activated].freeze
    ANY_HOST = 1
    THIS_NODE = 2
    IN_MEMORY = 4
    RENEW_ANYWAY = 1
    ALIVE = 1

    # Where the library is: `OOD_CA_LIB` alone if it is set, else the gem's own
    # directory, else wherever the system's loader finds it.
    def self.candidates
      given = ENV["OOD_CA_LIB"].to_s
      unless given.empty?
        return [File.directory?(given) ? File.join(given, NAME) : File.expand_path(given)]
      end

      own = File.expand_path("../#{NAME}", __dir__)
      File.file?(own) ? [own] : [NAME]
    end

    def self.load
      places = candidates
      ffi_lib(places)
    rescue LoadError => e
      raise LibraryError.new(
        "libood_ca cannot be loaded from #{places.join(', ')}: #{e.message.lines.first.to_s.strip}",
        code: "library",
        hint: "install it with scripts/install of ood-ca, or say where it is with OOD_CA_LIB=/path/to/libood_ca.so"
      )
    end
    private_class_method :load

    def self.attach(name, arguments, result = :uint32, **options)
      attach_function(name, arguments, result, **options)
    rescue FFI::NotFoundError
      raise LibraryError.new("#{candidates.join(', ')} is not libood_ca, or not of this version: it has no #{name}",
                             code: "library", hint: "install the library and the gem of one release")
    end
    private_class_method :attach

    def self.abi_version
      number = ood_ca_abi_version
      [number >> 16, number & 0xffff].freeze
    end

    def self.check_abi
      major, minor = abi_version
      return if major == ABI_MAJOR && minor >= ABI_MINOR

      raise LibraryError.new(
        "libood_ca #{ood_ca_version} has ABI #{major}.#{minor}, and this gem (#{VERSION}) needs #{ABI_MAJOR}.#{ABI_MINOR} or a later #{ABI_MAJOR}",
        code: "library", hint: "install the library and the gem of one release"
      )
    end
    private_class_method :check_abi

    load
    attach :ood_ca_abi_version, []
    attach :ood_ca_version, [], :string
    check_abi

    # Text with its length lies in two fields, `name` and `name_len`.
    class Struct < FFI::Struct
      def self.new_sized
        struct = new
        struct[:size] = size
        struct
      end

      # A view, filled by the function of the library that `block` calls.
      def self.view
        struct = new_sized
        Native.call { |error| yield(struct, error) }
        struct
      end

      def text(name)
        self[name].read_bytes(self[:"#{name}_len"]).force_encoding(Encoding::UTF_8).freeze
      end

      # The list of texts `name`, of `name_len` elements.
      def texts(name)
        count = self[:"#{name}_len"]
        return NO_TEXTS if count.zero?

        first = self[name]
        Array.new(count) { |i| Str.new(first + (i * Str.size)).text(:data) }.freeze
      end

      # Options from keyword arguments; nil leaves a field as it is, at zero. What
      # the fields point to lives as long as the options.
      def self.from(texts: {}, lists: {}, **fields)
        options = new_sized
        options.keep(texts, lists)
        fields.each { |name, value| options[name] = value }
        options
      end

      def keep(texts, lists)
        @kept = []
        texts.each do |name, value|
          next if value.nil?

          self[name], self[:"#{name}_len"] = kept(Native.utf8(value, name))
        end
        lists.each do |name, values|
          next if values.empty?

          array = FFI::MemoryPointer.new(Str, values.size)
          values.each_with_index do |value, i|
            entry = Str.new(array + (i * Str.size))
            entry[:data], entry[:data_len] = kept(Native.utf8(value, name))
          end
          @kept << array
          self[name] = array
          self[:"#{name}_len"] = values.size
        end
      end

      # Overwrites what the texts were copied to.
      def wipe
        @kept&.each(&:clear)
      end

      private

      def kept(string)
        # One more byte, as there are no blocks of none.
        memory = FFI::MemoryPointer.new(:char, string.bytesize + 1, false)
        memory.put_bytes(0, string)
        @kept << memory
        [memory, string.bytesize]
      end
    end

    NO_TEXTS = [].freeze
    private_constant :NO_TEXTS

    # `ood_ca_str`
    class Str < Struct
      layout :data, :pointer, :data_len, :size_t
    end

    # `ood_ca_open_options`
    class OpenOptions < Struct
      layout :size, :size_t, :pki_dir, :pointer, :pki_dir_len, :size_t, :config, :pointer, :config_len, :size_t

      def self.from(pki_dir:, config:)
        super(texts: { pki_dir: pki_dir, config: config })
      end
    end

    # `ood_ca_issue_options`
    class IssueOptions < Struct
      layout :size, :size_t, :purpose, :uint32, :flags, :uint32, :ttl, :uint64,
             :hosts, :pointer, :hosts_len, :size_t, :ips, :pointer, :ips_len, :size_t
    end

    # `ood_ca_render_options`
    class RenderOptions < Struct
      layout :size, :size_t, :nginx_version, :pointer, :nginx_version_len, :size_t,
             :user, :pointer, :user_len, :size_t, :home, :pointer, :home_len, :size_t,
             :config, :pointer, :config_len, :size_t, :resolv_conf, :pointer, :resolv_conf_len, :size_t

      def self.from(**texts)
        super(texts: texts)
      end
    end

    # `ood_ca_verify_options`
    class VerifyOptions < Struct
      layout :size, :size_t, :certificate, :pointer, :certificate_len, :size_t,
             :purpose, :uint32, :reserved, :uint32, :peer, :pointer, :peer_len, :size_t,
             :trust, :pointer, :trust_len, :size_t, :key, :pointer, :key_len, :size_t, :at, :int64
    end

    # `ood_ca_buffer_view`
    class BufferView < Struct
      layout :size, :size_t, :text, :pointer, :text_len, :size_t, :notices, :pointer, :notices_len, :size_t
    end

    # `ood_ca_certificate_view`
    class CertificateView < Struct
      layout :size, :size_t, :kind, :uint32, :reserved, :uint32, :not_before, :int64, :not_after, :int64,
             :serial, :pointer, :serial_len, :size_t, :fingerprint, :pointer, :fingerprint_len, :size_t,
             :subject, :pointer, :subject_len, :size_t, :issuer, :pointer, :issuer_len, :size_t,
             :key_type, :pointer, :key_type_len, :size_t, :pem, :pointer, :pem_len, :size_t,
             :names, :pointer, :names_len, :size_t, :addresses, :pointer, :addresses_len, :size_t
    end

    # `ood_ca_info_view`
    class InfoView < Struct
      layout :size, :size_t, :pki_dir, :pointer, :pki_dir_len, :size_t, :phase, :uint32, :expired, :uint32,
             :trusted_len, :size_t, :has_client, :uint32, :client_due, :uint32, :client_due_at, :int64,
             :client_reason, :pointer, :client_reason_len, :size_t,
             :leaf_lifetime, :uint64, :max_leaf_lifetime, :uint64
    end

    # `ood_ca_issued_view`
    class IssuedView < Struct
      layout :size, :size_t, :key, :pointer, :key_len, :size_t, :certificate, :pointer, :certificate_len, :size_t,
             :trust, :pointer, :trust_len, :size_t, :recorded, :uint32, :reserved, :uint32,
             :notices, :pointer, :notices_len, :size_t
    end

    # `ood_ca_list_view`
    class ListView < Struct
      layout :size, :size_t, :len, :size_t, :unreadable, :pointer, :unreadable_len, :size_t
    end

    # `ood_ca_report_view`
    class ReportView < Struct
      layout :size, :size_t, :valid, :uint32, :reserved, :uint32, :reason, :pointer, :reason_len, :size_t
    end

    # A handle frees itself when nothing refers to it any more.
    class AuthorityHandle < FFI::AutoPointer
      def self.release(pointer)
        Native.ood_ca_authority_free(pointer)
      end
    end

    # The key in it is wiped when it is freed.
    class IssuedHandle < FFI::AutoPointer
      def self.release(pointer)
        Native.ood_ca_issued_free(pointer)
      end
    end

    # See {AuthorityHandle}.
    class BufferHandle < FFI::AutoPointer
      def self.release(pointer)
        Native.ood_ca_buffer_free(pointer)
      end
    end

    # See {AuthorityHandle}.
    class InfoHandle < FFI::AutoPointer
      def self.release(pointer)
        Native.ood_ca_info_free(pointer)
      end
    end

    # See {AuthorityHandle}.
    class ListHandle < FFI::AutoPointer
      def self.release(pointer)
        Native.ood_ca_list_free(pointer)
      end
    end

    # See {AuthorityHandle}.
    class ReportHandle < FFI::AutoPointer
      def self.release(pointer)
        Native.ood_ca_report_free(pointer)
      end
    end

    # These read the environment, which Ruby's other threads may change meanwhile.
    {
      ood_ca_authority_open: %i[pointer pointer pointer],
      ood_ca_authority_ensure: %i[pointer pointer pointer],
      ood_ca_info_read: %i[pointer pointer pointer],
      ood_ca_render: %i[pointer pointer pointer]
    }.each { |name, arguments| attach name, arguments }

    # Those that read files or do key work let Ruby's other threads run.
    {
      ood_ca_authority_trust: %i[pointer pointer pointer],
      ood_ca_authority_info: %i[pointer pointer pointer],
      ood_ca_authority_list: %i[pointer uint32 pointer pointer],
      ood_ca_issue: %i[pointer pointer pointer pointer],
      ood_ca_sign_csr: %i[pointer pointer size_t pointer pointer pointer],
      ood_ca_renew_if_due: %i[pointer uint32 pointer pointer],
      ood_ca_verify: %i[pointer pointer pointer pointer]
    }.each { |name, arguments| attach name, arguments, blocking: true }

    {
      ood_ca_buffer_get: %i[pointer pointer pointer],
      ood_ca_info_get: %i[pointer pointer pointer],
      ood_ca_info_authority: %i[pointer pointer pointer],
      ood_ca_info_trusted: %i[pointer size_t pointer pointer],
      ood_ca_info_client: %i[pointer pointer pointer],
      ood_ca_issued_get: %i[pointer pointer pointer],
      ood_ca_issued_certificate: %i[pointer pointer pointer],
      ood_ca_list_get: %i[pointer pointer pointer],
      ood_ca_list_certificate: %i[pointer size_t pointer pointer],
      ood_ca_report_get: %i[pointer pointer pointer],
      ood_ca_report_certificate: %i[pointer pointer pointer]
    }.each { |name, arguments| attach name, arguments }

    %i[authority buffer error info issued list report].each do |handle|
      attach :"ood_ca_#{handle}_free", [:pointer], :void
    end
    attach :ood_ca_error_status, [:pointer]
    %i[ood_ca_error_word ood_ca_error_message ood_ca_error_hint].each do |name|
      attach name, %i[pointer pointer], :string
    end

    STATUS_OK = 0
    STATUS_NOT_TRUSTED = 400

    # Calls a function of the library with a place for its error, and raises what
    # it puts there. A status in `accept` is handed back instead.
    def self.call(accept: nil)
      place = FFI::MemoryPointer.new(:pointer)
      status = yield(place)
      return status if status == STATUS_OK

      error = place.read_pointer
      begin
        return status if status == accept

        raise error_for(status, error)
      ensure
        ood_ca_error_free(error)
      end
    end

    # A handle that a function of the library makes; nil if it makes none.
    def self.handle(type, accept: nil)
      place = FFI::MemoryPointer.new(:pointer)
      call(accept: accept) { |error| yield(place, error) }
      pointer = place.read_pointer
      pointer.null? ? nil : type.new(pointer)
    end

    # Text and notices of a buffer that a function of the library makes.
    def self.buffer(&block)
      made = handle(BufferHandle, &block)
      view = BufferView.view { |out, error| ood_ca_buffer_get(made, out, error) }
      [view.text(:text), view.texts(:notices)]
    ensure
      made&.free
    end

    # Text for the library. The message of the error does not show it: it may be a
    # key.
    def self.utf8(value, name)
      raise TypeError, "#{name} must be a String and is a #{value.class}" unless value.respond_to?(:to_str)

      string = value.to_str
      string.encoding == Encoding::UTF_8 || string.encoding == Encoding::BINARY ? string : string.encode(Encoding::UTF_8)
    rescue EncodingError
      raise ArgumentInvalid.new("#{name} cannot be written in UTF-8", code: "not-utf8", status: 103)
    end

    def self.error_for(status, error)
      hint = utf8_from(ood_ca_error_hint(error, nil))
      Error.for(status).new(utf8_from(ood_ca_error_message(error, nil)),
                            code: utf8_from(ood_ca_error_word(error, nil)),
                            hint: hint.empty? ? nil : hint, status: status)
    end
    private_class_method :error_for

    def self.utf8_from(string)
      string.dup.force_encoding(Encoding::UTF_8)
    end
    private_class_method :utf8_from
  end
  private_constant :Native
end
