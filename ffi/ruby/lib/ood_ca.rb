# frozen_string_literal: true

require "ood_ca/version"
require "ood_ca/error"
require "ood_ca/native"
require "ood_ca/certificate"
require "ood_ca/issued"
require "ood_ca/info"
require "ood_ca/record"
require "ood_ca/verification"
require "ood_ca/snippet"
require "ood_ca/authority"

# A user's own certificate authority for apps behind Open OnDemand, in this
# process: no subprocess, no configuration.
#
# @example For a user with nothing in place
#   OodCa::Authority.open.issue(hosts: ["n001"]).not_after
#
# @example What the dashboard shows
#   client = OodCa.info.client
#   "Your web server's certificate ends on #{client.not_after}" if client
module OodCa
  class << self
    # @return [String] the version of libood_ca
    def version
      Native.ood_ca_version
    end

    # @return [Array(Integer, Integer)] the ABI of libood_ca: its major and minor number
    def abi_version
      Native.abi_version
    end

    # Looks at the files of an authority without opening or creating it. Works
    # when it has expired, too.
    #
    # @param pki_dir [String, nil] its directory; nil: what the site's settings say, or `~/.ood/pki`
    # @param config [String, nil] the site's settings; nil: `/etc/ood/config/ood_ca.yml`
    # @return [Info]
    # @raise [NoAuthority] if there is none
    def info(pki_dir: nil, config: nil)
      options = Native::OpenOptions.from(pki_dir: pki_dir, config: config)
      Info.new(Native.handle(Native::InfoHandle) { |out, error| Native.ood_ca_info_read(options, out, error) })
    end

    # Renders the nginx locations through which a user's web server reaches the
    # user's jobs, to be shown or compared. Installing them is root's affair
    # (`pun-helper hook`).
    #
    # @param user [String] whose
    # @param nginx_version [String] of the nginx that will read them: `1.22.1`, or what `nginx -v` prints
    # @param home [String, nil] their home directory; nil: what the passwd database says
    # @param config [String, nil] the site's settings, as for {info}
    # @param resolv_conf [String, nil] where to read the name servers from; nil: `/etc/resolv.conf`
    # @return [Snippet]
    # @raise [RenderError]
    def render(user:, nginx_version:, home: nil, config: nil, resolv_conf: nil)
      options = Native::RenderOptions.from(user: user, nginx_version: nginx_version, home: home,
                                           config: config, resolv_conf: resolv_conf)
      Snippet.new(Native.buffer { |out, error| Native.ood_ca_render(options, out, error) })
    end
  end
end
