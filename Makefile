.PHONY: test check lock demo clean

test:
	hack/test

check:
	hack/check

lock:
	hack/lock

demo:
	hack/demo

clean:
	git clean -d --force -X
