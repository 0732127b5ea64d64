# frozen_string_literal: true

module OodCore
  module BatchConnect
    # A script made of the same parts, in the same order and under the same names
    # as ood_core's: what a template may override.
    class Template
      attr_reader :context

      def initialize(context = {})
        @context = context.to_h.reject { |_, value| value.nil? }.transform_keys(&:to_sym)
        raise ArgumentError, "work_dir is missing" unless @context.key?(:work_dir)
      end

      def to_s
        [header, script_wrapper, footer].join("\n")
      end

      protected

      def password_size
        context.fetch(:password_size, 8).to_i
      end

      def min_port
        context.fetch(:min_port, 2000).to_i
      end

      def max_port
        context.fetch(:max_port, 65_535).to_i
      end

      private

      def text(name, default)
        context.fetch(name, default).to_s
      end

      def work_dir
        context.fetch(:work_dir).to_s
      end

      def conn_file
        text(:conn_file, "connection.yml")
      end

      def conn_params
        (Array(context.fetch(:conn_params, [])).map(&:to_sym) + %i[host port password]).uniq
      end

      def set_host
        text(:set_host, "host=$(hostname)")
      end

      def header
        text(:header, "")
      end

      def footer
        text(:footer, "")
      end

      def script_wrapper
        format(text(:script_wrapper, "%s"), base_script)
      end

      def bash_helpers
        text(:bash_helpers, <<~SHELL)
          source_helpers () {
            create_passwd () {
              head -c 99 /dev/urandom | base64 | tr -cd a-zA-Z0-9 | head -c "${1:-#{password_size}}"
            }
            find_port () {
              shuf -n 1 -i "#{min_port}-#{max_port}"
            }
          }
        SHELL
      end

      def sourced(option, file_option, file)
        context.fetch(option) do
          name = text(file_option, file)
          "if [ -e \"./#{name}\" ]; then . \"./#{name}\"; fi"
        end.to_s
      end

      def before_script
        sourced(:before_script, :before_file, "before.sh")
      end

      def after_script
        sourced(:after_script, :after_file, "after.sh")
      end

      def clean_script
        sourced(:clean_script, :clean_file, "clean.sh")
      end

      def run_script
        context.fetch(:run_script) do
          limit = text(:timeout, "")
          limit = "timeout #{limit} " unless limit.empty?
          "#{limit}\"#{text(:script_file, './script.sh')}\""
        end.to_s
      end

      def base_script
        <<~SHELL
          cd "#{work_dir}" || exit 1
          export host port
          create_yml () {
            ( umask 077; printf '%s\\n' #{conn_params.map { |name| "\"#{name}: ${#{name}}\"" }.join(' ')} >"#{conn_file}" )
          }
          clean_up () {
            #{clean_script}
            [ -z "${SCRIPT_PID}" ] || pkill -P "${SCRIPT_PID}" || :
            pkill -P $$
            exit "${1:-0}"
          }
          #{bash_helpers}
          source_helpers
          #{set_host}
          #{before_script}
          #{run_script} &
          SCRIPT_PID=$!
          #{after_script}
          create_yml
          wait "${SCRIPT_PID}" || clean_up 1
          clean_up
        SHELL
      end
    end
  end
end
