# frozen_string_literal: true

module OodCa
  # The record of what was issued: authorities, client leaves, jobs' leaves, the
  # one that ends first in front.
  class Record
    include Enumerable

    # @return [Array<Certificate>]
    attr_reader :certificates
    # @return [Array<String>] names of files in the record that are no certificates
    attr_reader :unreadable

    # @api private
    def initialize(handle)
      view = Native::ListView.view { |out, error| Native.ood_ca_list_get(handle, out, error) }
      @certificates = Array.new(view[:len]) do |i|
        Certificate.new(
          Native::CertificateView.view { |out, error| Native.ood_ca_list_certificate(handle, i, out, error) }
        )
      end.freeze
      @unreadable = view.texts(:unreadable)
      freeze
    ensure
      handle.free
    end

    # @yieldparam certificate [Certificate]
    # @return [Enumerator, self]
    def each(&block)
      return to_enum(:each) { size } unless block

      certificates.each(&block)
      self
    end

    # @return [Integer]
    def size
      certificates.size
    end
    alias length size

    # @return [Boolean]
    def empty?
      certificates.empty?
    end

    # @param index [Integer]
    # @return [Certificate, nil]
    def [](index)
      certificates[index]
    end
  end
end
