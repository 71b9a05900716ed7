# The images of docker-compose.yml: `docker build --target admin .`, `envoy` or `backend`.

FROM rust:1.95-bookworm AS build
WORKDIR /tidegate
COPY . .
# All at once, so that what they share is compiled once.
RUN cargo build --release --locked --bins --package tidegate-admin --package tidegate-backend --package xtask \
    && mkdir /out \
    && cp target/release/tidegate target/release/tidegate-demo-backend /out/ \
    && target/release/xtask filter /out/tidegate.wasm \
    && rm -rf target

# The admin service, with sqlite3 for rows by hand.
FROM debian:bookworm-slim AS admin
RUN apt-get update \
    && apt-get install --yes --no-install-recommends sqlite3 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 tidegate \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin tidegate \
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/tidegate \
    && install -d -o 10001 -g 10001 -m 0750 /run/tidegate/tokens
COPY --from=build /out/tidegate /usr/local/bin/tidegate
USER 10001:10001
ENV TIDEGATE_DB=/var/lib/tidegate/tidegate.db TIDEGATE_TOKENS=/run/tidegate/tokens
ENTRYPOINT ["tidegate"]
CMD ["serve"]

# Something to send requests to.
FROM debian:bookworm-slim AS backend
COPY --from=build /out/tidegate-demo-backend /usr/local/bin/tidegate-demo-backend
USER 10003:10003
ENTRYPOINT ["tidegate-demo-backend"]
CMD ["demo", "0.0.0.0:10080"]

# Envoy with the filter. In the group of the admin service, which may read the gateways' token and no other.
FROM envoyproxy/envoy:v1.40-latest AS envoy
# As in the image above: whichever container is made first gives the volume its owner.
RUN install -d -o 10001 -g 10001 -m 0750 /run/tidegate/tokens
COPY envoy/entrypoint.sh /usr/local/bin/tidegate-envoy
COPY envoy/compose.yaml /etc/tidegate/envoy.yaml
COPY --from=build /out/tidegate.wasm /etc/tidegate/tidegate.wasm
USER 10002:10001
ENTRYPOINT ["tidegate-envoy"]
CMD ["-c", "/etc/tidegate/envoy.yaml"]
