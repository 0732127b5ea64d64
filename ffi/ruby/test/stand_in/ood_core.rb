# frozen_string_literal: true

require "ood_core/batch_connect/template"
require "ood_core/batch_connect/factory"
