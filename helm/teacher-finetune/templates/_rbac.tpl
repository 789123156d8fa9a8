{{/*
Permissions, each rule with its reason above it. `make chart` generates docs/rbac.md from these comments; a test fails if
a rule has none.
*/}}
{{- define "teacher-finetune.operatorRules" -}}
# The operator handles these objects. It never writes their spec.
- apiGroups: [finetune.dev]
  resources: [teacherfinetunes]
  verbs: [get, list, watch]
# Conditions, progress and results are written into the status.
- apiGroups: [finetune.dev]
  resources: [teacherfinetunes/status]
  verbs: [get, patch]
# Children have the object as their owner, so they are deleted with it. With OwnerReferencesPermissionEnforcement, as on
# OpenShift, owner references need this permission. The operator never sets a finalizer.
- apiGroups: [finetune.dev]
  resources: [teacherfinetunes/finalizers]
  verbs: [update]
# Inspection and trainers are Jobs. They are suspended and resumed by a patch, and deleted when their time to live has passed.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
# Pods of the Jobs show the state: waiting for a GPU, running, ended and why.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
# Progress and the last lines before a failure are read from the trainers' logs.
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
# The request of a run is a ConfigMap that inspection mounts. If the name exists, its owner is
# read: the run waits for another owner's ConfigMap and never changes it.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, create, patch]
# Trainers on several nodes find each other through a headless Service. If the name exists, its owner is read:
# the run waits for another owner's Service and never changes it.
- apiGroups: [""]
  resources: [services]
  verbs: [get, create, patch]
{{- if .Values.runNetworkPolicy.enabled }}
# With runNetworkPolicy.enabled each run has a NetworkPolicy of its own. If the name exists, its owner is
# read: the run waits for another owner's NetworkPolicy and never changes it.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, create, patch]
{{- end }}
# Changes of an object are recorded as Events; Events of its pods show why one cannot be scheduled.
- apiGroups: [""]
  resources: [events]
  verbs: [create, list]
{{- end -}}

{{- define "teacher-finetune.leaseRules" -}}
# The first operator creates the Lease. RBAC cannot limit this to a name, because the name is unknown before creation.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
# The leader renews its Lease; the others check the renewals.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "teacher-finetune.leaseName" . }}]
  verbs: [get, update]
{{- end -}}

{{- define "teacher-finetune.reviewRules" -}}
# A TokenReview identifies the owner of a token that is sent to /metrics.
- apiGroups: [authentication.k8s.io]
  resources: [tokenreviews]
  verbs: [create]
# A SubjectAccessReview decides if this owner may read the metrics.
- apiGroups: [authorization.k8s.io]
  resources: [subjectaccessreviews]
  verbs: [create]
{{- end -}}

{{- define "teacher-finetune.viewRules" -}}
# Users who may view a namespace may view its runs.
- apiGroups: [finetune.dev]
  resources: [teacherfinetunes, teacherfinetunes/status]
  verbs: [get, list, watch]
{{- end -}}

{{- define "teacher-finetune.editRules" -}}
# Users who may run workloads in a namespace may start runs there. Only the operator writes the status.
- apiGroups: [finetune.dev]
  resources: [teacherfinetunes]
  verbs: [create, update, patch, delete, deletecollection]
{{- end -}}

{{- define "teacher-finetune.testRules" -}}
# `helm test` sends one object as a dry run. Nothing is stored, but a dry run needs the permission to create.
- apiGroups: [finetune.dev]
  resources: [teacherfinetunes]
  verbs: [create]
{{- end -}}
