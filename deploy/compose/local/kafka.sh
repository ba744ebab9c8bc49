#!/bin/bash
# Writes server.properties from KAFKA_… variables as the public image does, formats the storage once, and serves.
set -euo pipefail
properties=/tmp/server.properties
env | sed -n 's/^KAFKA_//p' | while IFS='=' read -r name value; do
  name=${name,,}
  echo "${name//_/.}=$value"
done >"$properties"
java=(java -Xms256m "-Xmx${KAFKA_HEAP:-512m}" -XX:+UseSerialGC -Dlog4j2.configurationFile=/opt/kafka/log4j2.properties -cp "/opt/kafka/*")
"${java[@]}" kafka.tools.StorageTool format --ignore-formatted -t "${CLUSTER_ID:-4L6g3nShT-eMCtK--X86sw}" -c "$properties"
exec "${java[@]}" kafka.Kafka "$properties"
