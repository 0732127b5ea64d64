# frozen_string_literal: true

module OodCa
  # A user's certificate authority. Any number of threads may use one, and
  # processes that were forked while it was open, too. When another process has
  # rotated or replaced it, the next call uses the new one.
  class Authority
    # Opens the authority of the user who runs this, and creates it first if there
    # is none.
    #
    # @param pki_dir [String, nil] its directory; nil: what the site's settings say, or `~/.ood/pki`
    # @param config [String, nil] the site's settings; nil: `/etc/ood/config/ood_ca.yml`, which may be missing
    # @param create [Boolean] false: raise {NoAuthority} if there is none
    # @return [Authority]
    # @raise [AuthorityError]
    def self.open(pki_dir: nil, config: nil, create: true)
      options = Native::OpenOptions.from(pki_dir: pki_dir, config: config)
      new(Native.handle(Native::AuthorityHandle) do |out, error|
        if create
          Native.ood_ca_authority_ensure(options, out, error)
        else
          Native.ood_ca_authority_open(options, out, error)
        end
      end)
    end

    private_class_method :new

    # @api private
    def initialize(handle)
      @handle = handle
      freeze
    end

    # Issues a server leaf, with a key of its own, for an app in a job.
    #
    # @param hosts [Array<String>, String] host names that it should be valid for
    # @param ips [Array<String>, String] addresses that it should be valid for
    # @param any_host [Boolean] name no host; counts only at sites that set `verify_host: user`.
    #   Where none of these three is given, it names the machine that this runs on.
    # @param ttl [Integer, nil] its lifetime in seconds; nil: the site's default
    # @param record [Boolean] false: nothing is written, for a leaf of a short life
    # @return [Issued]
    # @raise [ArgumentInvalid, RequestRefused, AuthorityError]
    def issue(hosts: [], ips: [], any_host: false, ttl: nil, record: true)
      issue_with(server(hosts, ips, any_host, ttl, record))
    end

    # Issues a client leaf for the user who runs this, with a key of its own. (The
    # web server's own one is kept fresh by {#renew_if_due}.)
    #
    # @param ttl [Integer, nil] see {#issue}
    # @param record [Boolean] see {#issue}
    # @return [Issued]
    def issue_client(ttl: nil, record: true)
      issue_with(client(ttl, record))
    end

    # Issues a leaf for the key of a certificate signing request. Names and times
    # in that do not count.
    #
    # @param csr [String] PKCS#10 in PEM or DER
    # @param as [Symbol] `:server`, or `:client`, for which hosts must not be given
    # @return [Issued] without a key
    # @see #issue
    def sign_csr(csr, as: :server, hosts: [], ips: [], any_host: false, ttl: nil, record: true)
      options = purpose(as).zero? ? server(hosts, ips, any_host, ttl, record) : client(ttl, record, hosts, ips, any_host)
      raise TypeError, "csr must be a String and is a #{csr.class}" unless csr.respond_to?(:to_str)

      bytes = csr.to_str
      memory = FFI::MemoryPointer.new(:char, bytes.bytesize + 1, false).put_bytes(0, bytes)
      Issued.new(Native.handle(Native::IssuedHandle) do |out, error|
        Native.ood_ca_sign_csr(@handle, memory, bytes.bytesize, options, out, error)
      end)
    end

    # Renews the client leaf with which the user's web server reaches their jobs,
    # if it is due.
    #
    # @param force [Boolean] renew though it is not due
    # @return [Issued, nil] the new leaf without its key, which stays in the PKI directory;
    #   nil if nothing was due
    def renew_if_due(force: false)
      handle = Native.handle(Native::IssuedHandle) do |out, error|
        Native.ood_ca_renew_if_due(@handle, force ? Native::RENEW_ANYWAY : 0, out, error)
      end
      handle && Issued.new(handle)
    end

    # @return [String] every authority to be trusted now, in PEM, the one that signs first
    def trust_bundle
      Native.buffer { |out, error| Native.ood_ca_authority_trust(@handle, out, error) }.first
    end

    # Verifies a certificate as the other end of a connection would.
    #
    # @param certificate [Certificate, Issued, String] what; as text in PEM
    # @param as [Symbol] `:server` or `:client`
    # @param host [String, nil] the host name or address that a server must be
    # @param trust [String, nil] who is trusted, in PEM; nil: whom this authority trusts now
    # @param key [String, nil] a private key in PEM that must belong to it
    # @param at [Time, nil] when; nil: now
    # @return [Verification]
    # @raise [VerificationError] if something of it cannot be read
    def verify(certificate, as: :server, host: nil, trust: nil, key: nil, at: nil)
      pem = certificate.respond_to?(:pem) ? certificate.pem : certificate
      { host: host, trust: trust, key: key }.each { |name, text| refuse_empty(name, text) }
      raise TypeError, "at must be a Time and is a #{at.class}" unless at.nil? || at.is_a?(Time)
      raise ArgumentInvalid.new("at is not after 1970 began", code: "bad-value", status: 105) unless at.nil? || at.to_i.positive?

      options = Native::VerifyOptions.from(
        texts: { certificate: pem, peer: host, trust: trust, key: key },
        purpose: purpose(as), at: at.to_i
      )
      Verification.new(Native.handle(Native::ReportHandle, accept: Native::STATUS_NOT_TRUSTED) do |out, error|
        Native.ood_ca_verify(@handle, options, out, error)
      end)
    ensure
      options&.wipe
    end

    # @param alive [Boolean] leave out what is past its end
    # @return [Record] of what was issued
    def issued(alive: false)
      Record.new(Native.handle(Native::ListHandle) do |out, error|
        Native.ood_ca_authority_list(@handle, alive ? Native::ALIVE : 0, out, error)
      end)
    end

    # @return [Info]
    def info
      Info.new(Native.handle(Native::InfoHandle) { |out, error| Native.ood_ca_authority_info(@handle, out, error) })
    end

    # @return [String]
    def inspect
      "#<#{self.class}>"
    end
    alias to_s inspect

    # @api private
    def pretty_print(printer)
      printer.text(inspect)
    end

    # @api private
    def as_json(*)
      {}
    end

    # @api private
    def marshal_dump
      raise TypeError, "#{self.class} holds a private key and cannot be marshalled"
    end

    # @api private
    def encode_with(_coder)
      raise TypeError, "#{self.class} holds a private key and cannot be written as YAML"
    end

    private

    def issue_with(options)
      Issued.new(Native.handle(Native::IssuedHandle) do |out, error|
        Native.ood_ca_issue(@handle, options, out, error)
      end)
    end

    # For the library empty means: not checked. Here that is what nil is for.
    def refuse_empty(name, text)
      return unless text.respond_to?(:empty?) && text.empty?

      raise ArgumentInvalid.new("#{name} is empty", code: "bad-value", status: 105)
    end

    def purpose(name)
      Native::PURPOSES.fetch(name) { raise ArgumentError, "as: is :server or :client" }
    end

    def server(hosts, ips, any_host, ttl, record)
      # A name that was not found is not the wish for this machine's.
      raise TypeError, "hosts and ips must not be nil" if hosts.nil? || ips.nil?

      options(:server, Array(hosts), Array(ips), any_host, ttl, record)
    end

    def client(ttl, record, hosts = [], ips = [], any_host = false)
      options(:client, Array(hosts), Array(ips), any_host, ttl, record)
    end

    def options(as, hosts, ips, any_host, ttl, record)
      flags = record ? 0 : Native::IN_MEMORY
      if any_host
        flags |= Native::ANY_HOST
      elsif as == :server && hosts.empty? && ips.empty?
        flags |= Native::THIS_NODE
      end
      Native::IssueOptions.from(
        texts: {}, lists: { hosts: hosts, ips: ips },
        purpose: Native::PURPOSES[as], flags: flags, ttl: seconds(ttl)
      )
    end

    def seconds(ttl)
      return 0 if ttl.nil?
      raise TypeError, "ttl is a number of seconds and is a #{ttl.class}" if ttl.is_a?(String) || !ttl.respond_to?(:to_i)
      raise ArgumentInvalid.new("a lifetime must be longer than nothing", code: "bad-ttl", status: 111) unless ttl.to_i.positive?

      ttl.to_i
    end
  end
end
