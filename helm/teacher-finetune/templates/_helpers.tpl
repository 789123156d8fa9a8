{{- define "teacher-finetune.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Name of every object. With the longest suffix it fits into the 63 characters of a label. */}}
{{- define "teacher-finetune.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "teacher-finetune.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Labels that select the pods of a component: (list . "operator"). They never change, because selectors are immutable. */}}
{{- define "teacher-finetune.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "teacher-finetune.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of an object of a component: (list . "operator"). commonLabels never override the chart's own. */}}
{{- define "teacher-finetune.labels" -}}
{{- $root := index . 0 -}}
{{- $own := fromYaml (include "teacher-finetune.selectorLabels" .) -}}
{{- $_ := set $own "app.kubernetes.io/version" ($root.Chart.AppVersion | replace "+" "_") -}}
{{- $_ := set $own "app.kubernetes.io/part-of" "teacher-finetune" -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- toYaml (merge $own $root.Values.commonLabels) -}}
{{- end -}}

{{- define "teacher-finetune.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "teacher-finetune.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is required if serviceAccount.create is false: the namespace's default service account never gets the operator's permissions." .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Reference of an image: (list . .Values.image). */}}
{{- define "teacher-finetune.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- with default $root.Values.image.registry $image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest -}}@{{ $image.digest }}{{- else -}}:{{ default $root.Chart.AppVersion $image.tag }}{{- end -}}
{{- end -}}

{{- define "teacher-finetune.leaseName" -}}
{{- default (include "teacher-finetune.fullname" .) .Values.leaderElection.leaseName -}}
{{- end -}}

{{/* JSON of resources; the operator reads amounts as text, and `cpu: 4` is a number. */}}
{{- define "teacher-finetune.resourcesJson" -}}
{{- $result := dict -}}
{{- range $kind, $amounts := . -}}
{{- $texts := dict -}}
{{- range $name, $amount := $amounts -}}
{{- $_ := set $texts $name (toString $amount) -}}
{{- end -}}
{{- $_ := set $result $kind $texts -}}
{{- end -}}
{{- toRawJson $result -}}
{{- end -}}

{{/* A value that is escaped for the kubelet, which reads $(NAME) as a reference and $$ as one $. */}}
{{- define "teacher-finetune.literal" -}}
{{- . | replace "$" "$$" | replace "'" "''" | squote -}}
{{- end -}}

{{/* A security context without the fields that OpenShift sets itself: (list . .Values.podSecurityContext). */}}
{{- define "teacher-finetune.securityContext" -}}
{{- $root := index . 0 -}}
{{- $mode := $root.Values.openshift.adaptSecurityContext -}}
{{- if or (eq $mode "force") (and (eq $mode "auto") ($root.Capabilities.APIVersions.Has "security.openshift.io/v1")) -}}
{{- toYaml (omit (index . 1) "runAsUser" "runAsGroup" "fsGroup") -}}
{{- else -}}
{{- toYaml (index . 1) -}}
{{- end -}}
{{- end -}}

{{/* "true" if an object of the Prometheus operator is enabled and its kind is available: (list . .Values.serviceMonitor "ServiceMonitor"). */}}
{{- define "teacher-finetune.monitored" -}}
{{- $root := index . 0 -}}
{{- $values := index . 1 -}}
{{- if $values.enabled -}}
{{- if or (eq $values.renderMode "alwaysRender") ($root.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" (index . 2))) ($root.Capabilities.APIVersions.Has "monitoring.coreos.com/v1") -}}
true
{{- else if eq $values.renderMode "failIfMissing" -}}
{{- fail (printf "The cluster does not have the kind %s (monitoring.coreos.com/v1): install the Prometheus operator, or set %s.renderMode to skipIfMissing." (index . 2) (index . 2 | untitle)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Checks for contradicting values. Included by the Deployment, so they always run. */}}
{{- define "teacher-finetune.check" -}}
{{- if and (gt (int64 .Values.replicas) 1) (not .Values.leaderElection.enabled) -}}
{{- fail (printf "replicas is %d, but several operators need leaderElection.enabled: set it to true, or replicas to 1." (int64 .Values.replicas)) -}}
{{- end -}}
{{- if and (eq (default "" .Values.strategy.type) "RollingUpdate") (not .Values.leaderElection.enabled) -}}
{{- fail "strategy.type RollingUpdate runs two operators at the same time for a while, which needs leaderElection.enabled: set it to true, or omit strategy." -}}
{{- end -}}
{{- if and (ne (toString .Values.podDisruptionBudget.minAvailable) "") (ne (toString .Values.podDisruptionBudget.maxUnavailable) "") -}}
{{- fail "podDisruptionBudget takes minAvailable or maxUnavailable, not both: leave one empty." -}}
{{- end -}}
{{- end -}}
