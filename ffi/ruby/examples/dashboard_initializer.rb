# frozen_string_literal: true

# Copy to /etc/ood/config/apps/dashboard/initializers/ood_ca.rb. It runs as the user,
# each time their dashboard starts: it renews the certificate with which their web
# server reaches their jobs, and says when it ends. If anything is wrong, the
# dashboard starts all the same.
begin
  $LOAD_PATH.unshift("/usr/share/ood-ca/ruby/lib") unless $LOAD_PATH.include?("/usr/share/ood-ca/ruby/lib")
  require "ood_ca"
  # These two lines are all there is to it.
  OodCa::Authority.open.renew_if_due
  Rails.logger.info("ood_ca: the certificate of this web server ends on #{OodCa.info.client.not_after}")
rescue StandardError, LoadError => e
  Rails.logger.warn("ood_ca: #{e.message} #{e.hint if e.respond_to?(:hint)}")
end
