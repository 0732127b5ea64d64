#!/bin/sh
# Not tested: no distribution that this project is tested on has ghostunnel.
# Written by its documentation. --allow-all lets in every client whose
# certificate trust.crt vouches for, which is your own web server and no other.
exec ghostunnel server \
    --listen '{{listen}}' \
    --target '{{to}}' \
    --cert '{{certs}}/server.crt' \
    --key '{{certs}}/server.key' \
    --cacert '{{certs}}/trust.crt' \
    --allow-all
