# frozen_string_literal: true

module OodCa
  # nginx locations as text, and what there is to say about them.
  class Snippet
    # @return [String]
    attr_reader :text
    # @return [Array<String>] what an administrator should know though it worked
    attr_reader :notices

    alias to_s text

    # @api private
    def initialize((text, notices))
      @text = text
      @notices = notices
      freeze
    end
  end
end
