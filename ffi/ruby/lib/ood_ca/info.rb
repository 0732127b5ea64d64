# frozen_string_literal: true

module OodCa
  # An authority and the web server's client leaf as they were when it was asked.
  class Info
    # @return [String] the PKI directory
    attr_reader :pki_dir
    # @return [Symbol] how far a rotation has come: `:settled`, `:prepared`, `:activated`
    attr_reader :phase
    # @return [Certificate] of the authority that signs
    attr_reader :authority
    # @return [Array<Certificate>] of all that are trusted, the signer first
    attr_reader :trusted
    # @return [Certificate, nil] the client leaf of the user's web server
    attr_reader :client
    # @return [Time, nil] from when on that should be renewed; nil where no time decides
    attr_reader :client_due_at
    # @return [String] the same in words
    attr_reader :client_reason
    # @return [Integer] seconds that a leaf lives by default
    attr_reader :leaf_lifetime
    # @return [Integer] seconds that a leaf may live at most
    attr_reader :max_leaf_lifetime

    # @api private
    def initialize(handle)
      view = Native::InfoView.view { |out, error| Native.ood_ca_info_get(handle, out, error) }
      @pki_dir = view.text(:pki_dir)
      @phase = Native::PHASES.fetch(view[:phase], :unknown)
      @expired = view[:expired] == 1
      @authority = certificate { |out, error| Native.ood_ca_info_authority(handle, out, error) }
      @trusted = Array.new(view[:trusted_len]) do |i|
        certificate { |out, error| Native.ood_ca_info_trusted(handle, i, out, error) }
      end.freeze
      @client = certificate { |out, error| Native.ood_ca_info_client(handle, out, error) } if view[:has_client] == 1
      @client_due = view[:client_due] == 1
      @client_due_at = Time.at(view[:client_due_at]).utc.freeze unless view[:client_due_at].zero?
      @client_reason = view.text(:client_reason)
      @leaf_lifetime = view[:leaf_lifetime]
      @max_leaf_lifetime = view[:max_leaf_lifetime]
      freeze
    ensure
      handle.free
    end

    # @return [Boolean] whether the authority is past its end
    def expired?
      @expired
    end

    # @return [Boolean] whether the client leaf should be renewed now
    def client_due?
      @client_due
    end

    private

    def certificate(&block)
      Certificate.new(Native::CertificateView.view(&block))
    end
  end
end
