#!/bin/sh
# Makes what deploy/compose.yaml needs and must not be in a repository: passwords, keys, and a
# self-signed certificate until you put your own in its place. What is there already stays.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
cd secrets

fresh() { # a random word of the hex digits of N bytes
    od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'
}
keep() { # write standard input to a file that is not there yet
    if [ -e "$1" ]; then cat >/dev/null; else cat >"$1"; fi
}

fresh 48 | keep token_secret
fresh 24 | keep mongo_password
fresh 24 | keep mongo_root_password
fresh 256 | keep mongo_key
fresh 24 | keep redis_password
printf 'mongodb://angarium:%s@mongo-1,mongo-2,mongo-3/angarium?replicaSet=angarium' \
    "$(cat mongo_password)" | keep store_url
printf 'redis://:%s@redis:6379/0' "$(cat redis_password)" | keep bus_url
printf 'requirepass %s\nsave ""\nappendonly no\nmaxmemory 256mb\nmaxmemory-policy volatile-ttl\n' \
    "$(cat redis_password)" | keep redis_settings
if [ ! -e tls_certificate ]; then
    openssl req -x509 -newkey rsa:2048 -nodes -days 365 -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost -keyout tls_key -out tls_certificate 2>/dev/null
fi
rm -f tls.pem
cat tls_certificate tls_key >tls.pem # HAProxy wants both in one.
# Containers run as users of their own and read these; others here cannot enter the folder.
chmod 444 ./*
