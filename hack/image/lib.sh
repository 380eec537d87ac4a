# Shared by the hack/image-* scripts, which source it after hack/lib.sh: which tool, which names.

REGISTRY=${REGISTRY:-registry.local}
IMAGENAME=${IMAGENAME:-intel-gpu-resource-driver}
IMAGE_VERSION=${IMAGE_VERSION:-v$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)}
IMAGE_TAG=${IMAGE_TAG:-$REGISTRY/$IMAGENAME:$IMAGE_VERSION}
BASE_IMAGE=${BASE_IMAGE:-$(sed -n 's/^ARG BASE_IMAGE=//p' Dockerfile)}

# CONTAINER_TOOL, or the first of docker, podman and buildah that works here: a docker client without a daemon does not.
container_tool() {
    local candidate
    for candidate in ${CONTAINER_TOOL:-docker podman buildah}; do
        if "$candidate" info >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    die "needs one of: ${CONTAINER_TOOL:-docker, podman or buildah}; installed and working ('info' succeeds)"
}

# The name of a target's image: the simulator's is the other one's with -simulator before the version.
image_of() {
    case $1 in
    gpu-reconciler) echo "$IMAGE_TAG" ;;
    simulator) echo "${IMAGE_TAG%:*}-simulator:${IMAGE_TAG##*:}" ;;
    *) die "no target $1: gpu-reconciler or simulator" ;;
    esac
}
