# frozen_string_literal: true

module OodCa
  # Anything that went wrong in this gem. Its message is one line for people and
  # never holds key material.
  class Error < StandardError
    # @return [String] a word for programs, such as `no-authority`, that keeps its meaning;
    #   the same as in `ood-ca --json`
    attr_reader :code
    # @return [String, nil] what can be done about it
    attr_reader :hint
    # @return [Integer] the number of it in `ood_ca.h`; 0 where it did not come from the library
    attr_reader :status

    def initialize(message = nil, code: "error", hint: nil, status: 0)
      super(message)
      @code = code
      @hint = hint
      @status = status
    end

    # The error for a status, by its number or else by the hundreds of it.
    # @api private
    def self.for(status)
      BY_STATUS[status] || BY_HUNDRED[status / 100] || Error
    end
  end

  # The library cannot be found or loaded, or speaks another ABI.
  class LibraryError < Error; end

  # An argument that cannot be used: a name, a lifetime, a length.
  class ArgumentInvalid < Error; end

  # The PKI directory, the authority in it or the site's settings are not as
  # they should be.
  class AuthorityError < Error; end

  # There is no authority in the PKI directory.
  class NoAuthority < AuthorityError; end

  # A file or directory has an owner, mode or type that is not safe.
  class UnsafePath < AuthorityError; end

  # Space or quota has run out.
  class NoSpace < AuthorityError; end

  # The site's settings are wrong; the message names file, line and key.
  class ConfigError < AuthorityError; end

  # The authority is past its end.
  class AuthorityExpired < AuthorityError; end

  # What was asked for breaks a rule of the profile or of the site.
  class RequestRefused < Error; end

  # What was to be verified, or verified with, cannot be read.
  class VerificationError < Error; end

  # The nginx locations cannot be rendered.
  class RenderError < Error; end

  # A bug in the library, or no randomness.
  class InternalError < Error; end

  class Error
    BY_STATUS = {
      200 => NoAuthority,
      201 => UnsafePath,
      203 => NoSpace,
      204 => ConfigError,
      210 => AuthorityExpired
    }.freeze
    BY_HUNDRED = {
      1 => ArgumentInvalid,
      2 => AuthorityError,
      3 => RequestRefused,
      4 => VerificationError,
      5 => RenderError,
      9 => InternalError
    }.freeze
    private_constant :BY_STATUS, :BY_HUNDRED
  end
end
