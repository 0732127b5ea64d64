# frozen_string_literal: true

module OodCa
  # What the templates `mtls_basic` and `mtls_vnc` have in common. It needs no
  # library: the leaf is issued in the job, by `ood-job` or `ood-ca`.
  #
  # Options of the context, beside those of the template that is extended:
  #
  # * `mtls_ood_job` (`ood-job`): what runs the app, where it is on the nodes; else these do:
  # * `mtls_ood_ca` (`ood-ca`), `mtls_caddy` (`caddy`): where these are on the nodes
  # * `mtls_outbound` (`auto`): `none` for an app that connects to nothing
  # * `mtls_ready_timeout` (300): seconds until the app must listen
  # * `mtls_functions`: another `mtls.bash`, whose text goes into the script
  module BatchConnect
    # Where mtls.bash is: in a gem that was built, beside this directory as
    # installed, in the sources.
    PLACES = %w[../../share/mtls.bash ../../../mtls.bash ../../../../job/share/mtls.bash].freeze
    private_constant :PLACES

    SETTINGS = {
      mtls_ood_job: "MTLS_OOD_JOB",
      mtls_ood_ca: "MTLS_OOD_CA",
      mtls_caddy: "MTLS_CADDY",
      mtls_outbound: "MTLS_OUTBOUND",
      mtls_ready_timeout: "MTLS_READY_TIMEOUT"
    }.freeze
    private_constant :SETTINGS

    # @param path [String, nil] that file; nil: the one that belongs to this gem
    # @return [String] the shell functions
    # @raise [Errno::ENOENT] if there is none
    def self.functions(path = nil)
      path ||= PLACES.map { |place| File.expand_path(place, __dir__) }.find { |place| File.file?(place) }
      File.read(path || File.expand_path(PLACES.first, __dir__), encoding: Encoding::UTF_8)
    end

    # A word of shell, whatever is in it.
    # @param text [#to_s]
    # @return [String]
    def self.quote(text)
      "'#{text.to_s.gsub("'") { %q('\\'') }}'"
    end

    private

    # The functions, and the settings that they read.
    def mtls_prologue
      settings = SETTINGS.map do |option, variable|
        value = context[option].to_s
        "export #{variable}=#{BatchConnect.quote(value)}\n" unless value.empty?
      end
      [BatchConnect.functions(context[:mtls_functions]), *settings].join
    end

    # Shell that runs `code` (of any number of commands) where only the owner can
    # reach it, at the same port number inside as outside. It ends in a command.
    def mtls_wrapped(name, code)
      <<~SHELL.chomp
        #{name} () {
        #{code}
        }
        start_mtls "${MTLS_PORT}" "${MTLS_PORT}" bash -c "$(declare -f #{name}); #{name}"
      SHELL
    end
  end
end
