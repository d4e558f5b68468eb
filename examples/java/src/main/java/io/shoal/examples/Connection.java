package io.shoal.examples;

import com.google.gson.Gson;
import io.grpc.CallCredentials;
import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.TlsChannelCredentials;
import io.grpc.stub.AbstractStub;
import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.Executor;

/**
 * The channel: where to, how safely, and what is tried again.
 *
 * <ul>
 *   <li>{@code SHOAL_ADDRESS}: host:port, or anything that gRPC can resolve to several (default
 *       localhost:7700)
 *   <li>{@code SHOAL_TLS_CA}: a PEM file of certificates to trust, or {@code system}; without it
 *       there is no TLS
 *   <li>{@code SHOAL_API_KEY}: sent with every call, if given
 * </ul>
 */
final class Connection {
  /** Answers may be so large; gRPC by itself takes 4 MiB. */
  private static final int MAX_ANSWER_BYTES = 64 << 20;

  private Connection() {}

  /** Opens a channel with the deadlines and retries of protos/service_config.json. */
  static ManagedChannel open(Path protos) throws IOException {
    String address = System.getenv().getOrDefault("SHOAL_ADDRESS", "localhost:7700");
    // gRPC takes the configuration as maps, lists, strings and doubles: as Gson reads JSON.
    String json = Files.readString(protos.resolve("service_config.json"));
    @SuppressWarnings("unchecked")
    Map<String, ?> serviceConfig = new Gson().fromJson(json, Map.class);
    return Grpc.newChannelBuilder(address, transport(System.getenv("SHOAL_TLS_CA")))
        .defaultServiceConfig(serviceConfig)
        .maxInboundMessageSize(MAX_ANSWER_BYTES)
        .build();
  }

  private static ChannelCredentials transport(String trusted) throws IOException {
    if (trusted == null) {
      return InsecureChannelCredentials.create();
    }
    if (trusted.equals("system")) {
      return TlsChannelCredentials.create();
    }
    return TlsChannelCredentials.newBuilder().trustManager(new File(trusted)).build();
  }

  /** Lets a stub send the API key with every call, if there is one. */
  static <S extends AbstractStub<S>> S withApiKey(S stub) {
    String key = System.getenv("SHOAL_API_KEY");
    return key == null ? stub : stub.withCallCredentials(new ApiKey(key));
  }

  private static final class ApiKey extends CallCredentials {
    private static final Metadata.Key<String> AUTHORIZATION =
        Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
    private final String key;

    ApiKey(String key) {
      this.key = key;
    }

    @Override
    public void applyRequestMetadata(
        RequestInfo requestInfo, Executor executor, MetadataApplier applier) {
      Metadata headers = new Metadata();
      headers.put(AUTHORIZATION, "Bearer " + key);
      applier.apply(headers);
    }
  }
}
