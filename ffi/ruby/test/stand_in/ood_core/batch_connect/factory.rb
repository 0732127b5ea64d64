# frozen_string_literal: true

# What ood_core promises to a template, and nothing else of it: a name becomes a
# file that is required and a method that is called with symbols for keys.
module OodCore
  class Error < StandardError; end
  class TemplateNotSpecified < Error; end
  class TemplateNotFound < Error; end

  module BatchConnect
    class Factory
      def self.build(config)
        context = config.to_h.transform_keys(&:to_sym)
        name = context.fetch(:template) { raise TemplateNotSpecified, "no template is named" }.to_s
        begin
          require "ood_core/batch_connect/templates/#{name}"
        rescue LoadError
          raise LoadError, "there is no template #{name}"
        end
        method = "build_#{name}"
        raise TemplateNotFound, "there is no #{method}" unless respond_to?(method)

        send(method, context)
      end
    end
  end
end
