.PHONY: test check lock demo clean container-build container-push container-check

# CONTAINER_TOOL (docker, podman or buildah), BASE_IMAGE and what names an image: REGISTRY, IMAGENAME and
# IMAGE_VERSION, or IMAGE_TAG for all three. IMAGE_TARGET=simulator is the image with simulated GPUs.
IMAGE_TARGET ?= gpu-reconciler
export CONTAINER_TOOL BASE_IMAGE REGISTRY IMAGENAME IMAGE_VERSION IMAGE_TAG

test:
	hack/test

check:
	hack/check

lock:
	hack/lock

demo:
	hack/demo

container-build:
	hack/image-build $(IMAGE_TARGET) $(CONTAINER_BUILD_FLAGS)

container-push:
	hack/image-push $(IMAGE_TARGET) $(CONTAINER_PUSH_FLAGS)

container-check:
	hack/image-check

clean:
	git clean -d --force -X
