# frozen_string_literal: true

module OodCore
  module BatchConnect
    class Factory
      def self.build_basic(config)
        Templates::Basic.new(config.to_h.reject { |key, _| key == :template })
      end
    end

    module Templates
      class Basic < Template
      end
    end
  end
end
