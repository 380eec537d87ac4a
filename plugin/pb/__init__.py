"""Messages of the gRPC services, generated from proto/ by hack/gen-proto."""
