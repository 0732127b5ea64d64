# frozen_string_literal: true

require "ood_core"
require "ood_core/batch_connect/templates/basic"
require "ood_ca/batch_connect"

module OodCore
  module BatchConnect
    class Factory
      # Build the mtls_basic template from a configuration
      # @param config [#to_h] the configuration for the batch connect template
      def self.build_mtls_basic(config)
        context = config.to_h.transform_keys(&:to_sym).reject { |key, _| key == :template }
        Templates::MtlsBasic.new(context)
      end
    end

    module Templates
      # The `basic` template behind mutual TLS: only the owner's web server at the
      # portal reaches the app. `host` and `port` of the connection file are where.
      #
      # The main script finds `port` set, and listens on `127.0.0.1:$port` in a
      # network of its own. `before.sh` may set `port`; where it does not, a free
      # one is found.
      class MtlsBasic < Basic
        include OodCa::BatchConnect

        # @param context [#to_h] the context used to render the template
        # @option context [Boolean] :mtls_wrap (true) whether the main script is run
        #   behind mutual TLS; if not, it calls `start_mtls` itself
        # @see OodCa::BatchConnect
        # @see Basic
        def initialize(context = {})
          super
        end

        private

        def base_script
          "#{mtls_prologue}\n#{super}"
        end

        def before_script
          <<~SHELL
            #{super}
            if [ -z "${port}" ]; then
              port=$(mtls_free_port #{min_port} #{max_port}) || clean_up 1
            fi
            export MTLS_PORT=${port}
            # What is published is what the certificate is for.
            export MTLS_HOSTS="${host} ${MTLS_HOSTS}"
          SHELL
        end

        def run_script
          return super unless wrap?

          # An open pipe without a name; the first line in it says that the app answers.
          "exec {MTLS_READY_FD}<> <(:)\nexport MTLS_READY_FD\n#{mtls_wrapped('mtls_main', super)}"
        end

        def after_script
          return super unless wrap?

          <<~SHELL
            # Nobody is sent there before the app answers.
            until read -t 0 -u "${MTLS_READY_FD}"; do
              kill -0 "${SCRIPT_PID}" 2>/dev/null || clean_up 1
              sleep 0.1
            done
            #{super}
          SHELL
        end

        def wrap?
          value = context.fetch(:mtls_wrap, true)
          !["false", "no", "0", ""].include?(value.to_s)
        end
      end
    end
  end
end
