# frozen_string_literal: true

module OodCa
  # A leaf that was just issued, with its key.
  #
  # The key stays in the library's memory, which is wiped when this object is
  # collected, until it is asked for with {#key}. It is in no {#inspect}, and this
  # object can be neither marshalled nor written as YAML.
  class Issued
    # @api private
    def initialize(handle)
      @handle = handle
      @view = Native::IssuedView.view { |out, error| Native.ood_ca_issued_get(handle, out, error) }
      @read = {}
      freeze
    end

    # @return [Certificate] the certificate
    def certificate
      # Most callers want its PEM only.
      @read[:certificate] ||= Certificate.new(
        Native::CertificateView.view { |out, error| Native.ood_ca_issued_certificate(@handle, out, error) }
      )
    end

    # The private key, PKCS#8 in PEM; nil where the key is somebody else's (a
    # signing request) or stays in the PKI directory (a renewal).
    #
    # A block gets a copy that is wiped afterwards.
    #
    # @yieldparam pem [String]
    # @return [String, nil, Object] a new copy each time; or what the block returns
    def key
      return if @view[:key_len].zero?

      pem = @view[:key].read_bytes(@view[:key_len]).force_encoding(Encoding::UTF_8)
      return pem unless block_given?

      begin
        yield pem
      ensure
        pem.bytesize.times { |i| pem.setbyte(i, 0) }
      end
    end

    # @return [String] every authority that the leaf's bearer should trust, in PEM
    def trust
      @view.text(:trust)
    end

    # @return [Boolean] whether it is in the record of what was issued
    def recorded?
      @view[:recorded] == 1
    end

    # @return [Array<String>] what the user should know though it worked
    def notices
      @view.texts(:notices)
    end

    # @return [Time] the last second of its life
    def not_after
      certificate.not_after
    end

    # @return [Time] the first second of its life
    def not_before
      certificate.not_before
    end

    # @return [String] its serial number, lower-case hex
    def serial
      certificate.serial
    end

    # @return [String] the certificate in PEM
    def pem
      @view.text(:certificate)
    end

    # Writes what `ood-ca issue` writes: `NAME.key` (0600), `NAME.crt` and `trust.crt`.
    # Each file is complete before it gets its name.
    #
    # @param dir [String] an existing directory
    # @param name [String] `server`, say
    # @return [Array<String>] the paths
    def write(dir, name: certificate.kind.to_s)
      paths = { "#{name}.crt" => [pem, 0o644], "trust.crt" => [trust, 0o644] }
      written = paths.map { |file, (text, mode)| put(dir, file, text, mode) }
      key { |text| written.unshift(put(dir, "#{name}.key", text, 0o600)) }
      written
    end

    # @return [String] without the key
    def inspect
      "#<#{self.class} #{certificate.inspect}>"
    end
    alias to_s inspect

    # @api private
    def pretty_print(printer)
      printer.text(inspect)
    end

    # @return [Hash{Symbol => Object}] of the certificate; without the key
    def to_h
      certificate.to_h
    end

    # @api private
    def as_json(*)
      to_h
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

    def put(dir, file, text, mode)
      path = File.join(dir, file)
      # Not to be guessed, and nobody's who was here before.
      aside = "#{path}.#{Process.pid}.#{rand(1 << 64).to_s(36)}"
      File.open(aside, File::WRONLY | File::CREAT | File::EXCL, mode) do |file|
        # No buffer of Ruby's, which nobody would wipe.
        file.sync = true
        file.write(text)
      end
      File.rename(aside, path)
      path
    rescue SystemCallError
      File.unlink(aside) if File.exist?(aside)
      raise
    end
  end
end
