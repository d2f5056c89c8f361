FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY . .
RUN cargo build --release --locked --bin doorward

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 doorward && install -d -o doorward -m 0700 /var/lib/doorward
COPY --from=build /build/target/release/doorward /usr/local/bin/doorward
USER doorward
VOLUME /var/lib/doorward
ENTRYPOINT ["doorward"]
