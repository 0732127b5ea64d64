# frozen_string_literal: true

module OodCore
  module BatchConnect
    class Factory
      def self.build_vnc(config)
        Templates::VNC.new(config.to_h.reject { |key, _| key == :template })
      end
    end

    module Templates
      # A VNC server before the main script, websockify after it.
      class VNC < Template
        private

        def conn_params
          (super + %i[display websocket spassword]).uniq
        end

        def vnc_clean
          context.fetch(:vnc_clean) { "vncserver -list | clean-stale-sessions" }.to_s
        end

        def before_script
          <<~SHELL
            #{vnc_clean}
            password=$(create_passwd)
            spassword=$(create_passwd)
            display=$(vncserver #{text(:vnc_args, '')})
            port=$((5900 + display))
            #{super}
          SHELL
        end

        def run_script
          "DISPLAY=:${display} #{super}"
        end

        def after_script
          <<~SHELL
            #{super}
            websocket=$(find_port)
            #{text(:websockify_cmd, '/opt/websockify/run')} "${websocket}" "localhost:${port}" &
          SHELL
        end
      end
    end
  end
end
