package io.shoal.examples;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.util.Optional;

/** What an error says: switch on the reason, never on the message. */
final class Failures {
  private Failures() {}

  /** Gives the google.rpc.ErrorInfo of a failed call, if it comes from Shoal. */
  static Optional<ErrorInfo> errorInfo(StatusRuntimeException error) {
    for (Any detail : StatusProto.fromThrowable(error).getDetailsList()) {
      if (detail.is(ErrorInfo.class)) {
        try {
          return Optional.of(detail.unpack(ErrorInfo.class))
              .filter(info -> info.getDomain().equals("shoal"));
        } catch (InvalidProtocolBufferException damaged) {
          return Optional.empty();
        }
      }
    }
    return Optional.empty();
  }

  /** Prints the reason for which a call is refused, and some of its facts. */
  static void refused(Runnable call, String... facts) {
    try {
      call.run();
    } catch (StatusRuntimeException error) {
      ErrorInfo info = errorInfo(error).orElseThrow(() -> error);
      StringBuilder line = new StringBuilder("refused: ").append(info.getReason());
      line.append(" (code ").append(error.getStatus().getCode().value()).append(')');
      for (String fact : facts) {
        line.append(", ").append(fact).append(' ').append(info.getMetadataOrThrow(fact));
      }
      System.out.println(line);
      return;
    }
    throw new IllegalStateException("the call should have been refused");
  }
}
