# frozen_string_literal: true

require_relative "lib/ood_ca/version"

Gem::Specification.new do |spec|
  spec.name = "ood_ca"
  spec.version = OodCa::VERSION
  spec.authors = ["the authors of ood-ca"]
  spec.summary = "A user's own certificate authority for apps behind Open OnDemand"
  spec.description = "Issues, renews and verifies the certificates with which a user's web server and their " \
                     "jobs prove to each other whose they are, in this process, through libood_ca. With " \
                     "batch connect templates for ood_core that put an app behind mutual TLS."
  spec.license = "MIT"
  spec.required_ruby_version = ">= 2.7.0"
  # share/mtls.bash: copy it there from ../../job/share before `gem build`.
  spec.files = Dir.chdir(__dir__) { Dir["lib/**/*.rb", "sig/*.rbs", "examples/**/*", "share/mtls.bash", "README.md"] }
                  .select { |path| File.file?(File.join(__dir__, path)) }
  spec.require_paths = ["lib"]
  # ood_core's own dependency. No compiler is needed.
  spec.add_dependency "ffi", "~> 1.15"
end
