package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// Answers may be so large; gRPC by itself takes 4 MiB.
const maxAnswerBytes = 64 << 20

// connect opens a channel with the deadlines and retries of protos/service_config.json.
//
//	SHOAL_ADDRESS   host:port, or anything that gRPC can resolve to several (default localhost:7700)
//	SHOAL_TLS_CA    a PEM file of certificates to trust, or "system"; without it there is no TLS
//	SHOAL_API_KEY   sent with every call, if given
func connect(protos string) (*grpc.ClientConn, error) {
	serviceConfig, err := os.ReadFile(filepath.Join(protos, "service_config.json"))
	if err != nil {
		return nil, err
	}
	secure, err := transport(os.Getenv("SHOAL_TLS_CA"))
	if err != nil {
		return nil, err
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(secure),
		grpc.WithDefaultServiceConfig(string(serviceConfig)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswerBytes)),
	}
	if key := os.Getenv("SHOAL_API_KEY"); key != "" {
		options = append(options, grpc.WithPerRPCCredentials(apiKey(key)))
	}
	address := os.Getenv("SHOAL_ADDRESS")
	if address == "" {
		address = "localhost:7700"
	}
	return grpc.NewClient(address, options...)
}

func transport(trusted string) (credentials.TransportCredentials, error) {
	switch trusted {
	case "":
		return insecure.NewCredentials(), nil
	case "system":
		return credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12}), nil
	}
	pem, err := os.ReadFile(trusted)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", trusted)
	}
	return credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}), nil
}

// apiKey is sent with every call.
type apiKey string

func (key apiKey) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(key)}, nil
}

// RequireTransportSecurity lets a key be sent in the clear, as to a server on this machine.
func (apiKey) RequireTransportSecurity() bool { return false }
