// What an error says: switch on the reason, never on the message.

import { type ServiceError } from "@grpc/grpc-js";
import { ErrorInfo } from "../gen/google/rpc/error_details.js";
import { Status } from "../gen/google/rpc/status.js";

function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && "code" in error && "metadata" in error;
}

/** Gives the google.rpc.ErrorInfo of a failed call, if it comes from Shoal. */
export function errorInfo(error: ServiceError): ErrorInfo | undefined {
  const [trailer] = error.metadata.get("grpc-status-details-bin");
  if (!Buffer.isBuffer(trailer)) return undefined;
  return Status.decode(trailer)
    .details.filter((detail) => detail.typeUrl === "type.googleapis.com/google.rpc.ErrorInfo")
    .map((detail) => ErrorInfo.decode(detail.value))
    .find((info) => info.domain === "shoal");
}

/** Prints the reason for which a call is refused, and some of its facts. */
export async function refused(call: Promise<unknown>, ...facts: string[]): Promise<void> {
  try {
    await call;
  } catch (error) {
    const info = isServiceError(error) ? errorInfo(error) : undefined;
    if (!isServiceError(error) || info === undefined) throw error;
    const stated = facts.map((fact) => `, ${fact} ${info.metadata[fact]}`).join("");
    console.log(`refused: ${info.reason} (code ${error.code})${stated}`);
    return;
  }
  throw new Error("the call should have been refused");
}
