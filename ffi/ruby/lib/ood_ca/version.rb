# frozen_string_literal: true

module OodCa
  # The version of this gem, which is that of the library it was made with.
  VERSION = "0.1.0"
end
