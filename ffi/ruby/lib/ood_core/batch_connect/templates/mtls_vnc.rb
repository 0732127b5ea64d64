# frozen_string_literal: true

require "ood_core"
require "ood_core/batch_connect/templates/vnc"
require "ood_ca/batch_connect"

module OodCore
  module BatchConnect
    class Factory
      # Build the mtls_vnc template from a configuration
      # @param config [#to_h] the configuration for the batch connect template
      def self.build_mtls_vnc(config)
        context = config.to_h.transform_keys(&:to_sym).reject { |key, _| key == :template }
        Templates::MtlsVNC.new(context)
      end
    end

    module Templates
      # The `vnc` template behind mutual TLS: only the owner's web server at the
      # portal reaches the desktop. `host` and `websocket` of the connection file
      # are where; `port`, the VNC server's own, is closed to everybody else.
      #
      # The whole of the script, VNC server and websockify included, runs in a
      # network of its own.
      class MtlsVNC < VNC
        include OodCa::BatchConnect

        private

        def base_script
          <<~SHELL
            #{mtls_prologue}
            #{set_host}
            export host
            # What is published is what the certificate is for.
            export MTLS_HOSTS="${host} ${MTLS_HOSTS}"
            MTLS_PORT=$(mtls_free_port #{min_port} #{max_port}) || exit 1
            export MTLS_PORT
            #{mtls_wrapped('mtls_job', super)}
          SHELL
        end

        def after_script
          <<~SHELL
            # The template asks for a port for websockify: in this network all are free,
            # and outside of it this one is ours.
            find_port () {
              printf '%s\\n' "${MTLS_PORT}"
            }
            #{super}
          SHELL
        end

        # The template's own clean-up ends sessions whose process it does not see.
        # In here it sees none of another job of the same user.
        def vnc_clean
          context.fetch(:vnc_clean, ":").to_s
        end
      end
    end
  end
end
