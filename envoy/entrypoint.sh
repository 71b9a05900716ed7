#!/bin/sh
# Starts Envoy with the gateways' token, which the filter takes from the environment.
set -eu
TIDEGATE_GATEWAY_TOKEN=$(cat /run/tidegate/tokens/gateway-token)
export TIDEGATE_GATEWAY_TOKEN
# One Envoy in its container: there is none that it could take over from.
exec envoy --disable-hot-restart "$@"
