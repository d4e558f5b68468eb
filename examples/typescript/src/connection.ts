// The channel: where to, how safely, and what is tried again.
//
// SHOAL_ADDRESS   host:port, or anything that gRPC can resolve to several (default localhost:7700)
// SHOAL_TLS_CA    a PEM file of certificates to trust, or "system"; without it there is no TLS
// SHOAL_API_KEY   sent with every call, if given

import { readFileSync } from "node:fs";
import {
  type CallOptions,
  type ClientOptions,
  type ClientUnaryCall,
  credentials,
  InterceptingCall,
  type Interceptor,
  Metadata,
  type ServiceError,
} from "@grpc/grpc-js";
import { AdminServiceClient } from "../gen/shoal/v1/admin_service.js";
import { CollectionServiceClient } from "../gen/shoal/v1/collection_service.js";
import { RecordServiceClient } from "../gen/shoal/v1/record_service.js";
import { SnapshotServiceClient } from "../gen/shoal/v1/snapshot_service.js";

const SERVICE_CONFIG = new URL("../../../../protos/service_config.json", import.meta.url);

/** Answers may be so large; gRPC by itself takes 4 MiB. */
const MAX_ANSWER_BYTES = 64 * 1024 * 1024;

export interface Clients {
  admin: AdminServiceClient;
  collections: CollectionServiceClient;
  records: RecordServiceClient;
  snapshots: SnapshotServiceClient;
  close(): void;
}

/** Opens one channel for all services, with the deadlines and retries of protos/service_config.json. */
export function connect(): Clients {
  const address = process.env.SHOAL_ADDRESS ?? "localhost:7700";
  const trusted = process.env.SHOAL_TLS_CA;
  const apiKey = process.env.SHOAL_API_KEY;
  const options: ClientOptions = {
    "grpc.service_config": readFileSync(SERVICE_CONFIG, "utf8"),
    "grpc.max_receive_message_length": MAX_ANSWER_BYTES,
    interceptors: apiKey ? [sendApiKey(apiKey)] : [],
  };
  const secure = trusted
    ? credentials.createSsl(trusted === "system" ? null : readFileSync(trusted))
    : credentials.createInsecure();
  const admin = new AdminServiceClient(address, secure, options);
  const shared = { ...options, channelOverride: admin.getChannel() };
  return {
    admin,
    collections: new CollectionServiceClient(address, secure, shared),
    records: new RecordServiceClient(address, secure, shared),
    snapshots: new SnapshotServiceClient(address, secure, shared),
    close: () => admin.close(),
  };
}

function sendApiKey(key: string): Interceptor {
  return (options, nextCall) =>
    new InterceptingCall(nextCall(options), {
      start(metadata, listener, next) {
        metadata.set("authorization", `Bearer ${key}`);
        next(metadata, listener);
      },
    });
}

type Method<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: Partial<CallOptions>,
  callback: (error: ServiceError | null, response: Response) => void,
) => ClientUnaryCall;

/** Makes one call, as a promise: `call(records, records.add, request)`. */
export function call<Request, Response>(
  client: object,
  method: Method<Request, Response>,
  request: Request,
  options: Partial<CallOptions> = {},
): Promise<Response> {
  return new Promise((resolve, reject) => {
    method.call(client, request, new Metadata(), options, (error, response) =>
      error ? reject(error) : resolve(response),
    );
  });
}
