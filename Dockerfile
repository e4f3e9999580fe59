# The server in an image of its own: a static binary, no shell, no root.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=""
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/vitalwatch ./cmd/vitalwatch \
 && mkdir -p /out/data

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/vitalwatch /usr/bin/vitalwatch
# A new volume takes over the owner of what it covers.
COPY --from=build --chown=65532:65532 /out/data /data
USER 65532:65532
ENV VITALWATCH_DATA_DIR=/data
VOLUME /data
EXPOSE 8080 1883
HEALTHCHECK --interval=15s --timeout=6s --start-period=30s CMD ["/usr/bin/vitalwatch", "health"]
ENTRYPOINT ["/usr/bin/vitalwatch"]
CMD ["serve"]
