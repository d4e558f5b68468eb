package main

import (
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
)

// errorInfo gives the google.rpc.ErrorInfo of a failed call, or nil if it is not from Shoal. Switch
// on its reason, never on the message.
func errorInfo(err error) *errdetails.ErrorInfo {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == "shoal" {
			return info
		}
	}
	return nil
}

// refused prints the reason for which a call was refused, and some of its facts.
func refused(err error, facts ...string) error {
	if err == nil {
		return errors.New("the call should have been refused")
	}
	info := errorInfo(err)
	if info == nil {
		return err
	}
	fmt.Printf("refused: %s (code %d)", info.GetReason(), status.Code(err))
	for _, fact := range facts {
		fmt.Printf(", %s %s", fact, info.GetMetadata()[fact])
	}
	fmt.Println()
	return nil
}
