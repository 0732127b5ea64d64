# frozen_string_literal: true

module OodCa
  # How a verification went.
  class Verification
    # @return [String, nil] the first check that failed; nil if it is good
    attr_reader :reason
    # @return [Certificate] what was verified
    attr_reader :certificate

    # @api private
    def initialize(handle)
      view = Native::ReportView.view { |out, error| Native.ood_ca_report_get(handle, out, error) }
      @valid = view[:valid] == 1
      @reason = view.text(:reason) unless @valid
      @certificate = Certificate.new(
        Native::CertificateView.view { |out, error| Native.ood_ca_report_certificate(handle, out, error) }
      )
      freeze
    ensure
      handle.free
    end

    # @return [Boolean] whether the certificate is good for what was asked
    def valid?
      @valid
    end
  end
end
