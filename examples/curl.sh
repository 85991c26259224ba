#!/bin/sh
# Every kind of call with nothing but curl: chat, a stream, an embedding, and what a key may ask about itself.
#
#     GATEWAY_KEY=sk-gw-... sh examples/curl.sh
#
# Prints:
#
#     "content":"You said: Hello"
#     data: [DONE]
#     "usage":{"prompt_tokens":2,"total_tokens":2}
#     "object":"me"
set -eu

url="${GATEWAY_URL:-http://127.0.0.1:8000}/v1"

ask() { # ask PATH [BODY]: the answer's body; an error ends the script
  curl -sS --fail-with-body "$url/$1" -H "Authorization: Bearer $GATEWAY_KEY" ${2:+-H "Content-Type: application/json" -d "$2"}
}

ask chat/completions '{"model": "mock-1", "messages": [{"role": "user", "content": "Hello"}]}' | grep -o '"content":"[^"]*"'
ask chat/completions '{"model": "mock-1", "stream": true, "messages": [{"role": "user", "content": "Hello"}]}' | grep DONE
ask embeddings '{"model": "mock-embed", "input": "Hello"}' | grep -o '"usage":{[^}]*}'
ask me | grep -o '"object":"me"'
