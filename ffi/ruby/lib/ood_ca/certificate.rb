# frozen_string_literal: true

module OodCa
  # A certificate. It does not change and holds no key.
  class Certificate
    # @return [Symbol] `:authority`, `:server`, `:client`, or `:foreign` if it is not one of ours
    attr_reader :kind
    # @return [Time] the first second of its life
    attr_reader :not_before
    # @return [Time] the last second of its life
    attr_reader :not_after
    # @return [String] its serial number, lower-case hex
    attr_reader :serial
    # @return [String] the SHA-256 of it, 64 lower-case hex digits
    attr_reader :fingerprint
    # @return [String] the common name of its subject: the user for a client leaf, else random
    attr_reader :subject
    # @return [String] the subject of the authority that signed it
    attr_reader :issuer
    # @return [String] `ecdsa-p256`, `ed25519`, or empty for a key that is not ours
    attr_reader :key_type
    # @return [String] the certificate in PEM
    attr_reader :pem
    # @return [Array<String>] the host names that it is valid for
    attr_reader :names
    # @return [Array<String>] the addresses that it is valid for
    attr_reader :addresses

    alias to_pem pem

    # @api private
    def initialize(view)
      @kind = Native::KINDS.fetch(view[:kind], :foreign)
      @not_before = Time.at(view[:not_before]).utc.freeze
      @not_after = Time.at(view[:not_after]).utc.freeze
      %i[serial fingerprint subject issuer key_type pem].each do |name|
        instance_variable_set(:"@#{name}", view.text(name))
      end
      @names = view.texts(:names)
      @addresses = view.texts(:addresses)
      freeze
    end

    # @param at [Time] when
    # @return [Boolean] whether it is past its end
    def expired?(at: Time.now)
      at > not_after
    end

    # @return [Hash{Symbol => Object}] all of it but the PEM
    def to_h
      { kind: kind, serial: serial, fingerprint: fingerprint, subject: subject, issuer: issuer,
        not_before: not_before, not_after: not_after, key_type: key_type, names: names, addresses: addresses }
    end

    # Two are equal if they are the same certificate.
    def ==(other)
      other.is_a?(Certificate) && fingerprint == other.fingerprint
    end
    alias eql? ==

    # @return [Integer]
    def hash
      fingerprint.hash
    end

    # @return [String]
    def inspect
      "#<#{self.class} #{kind} #{[subject, *names, *addresses].uniq.join(' ')}, until #{not_after}>"
    end
  end
end
