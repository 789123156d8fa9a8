-- Health of a TeacherFineTune for Argo CD: resource.customizations.health.finetune.dev_TeacherFineTune in argocd-cm.
-- Only Lua's base functions are used, since Argo CD opens no others.
local status = obj.status or {}
local seen = status.observedGeneration or 0
if seen == 0 or (obj.metadata.generation or 0) > seen then
  return { status = "Progressing", message = "The operator has not seen this version of the object yet." }
end

local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end
local succeeded = conditions.Succeeded or { status = "Unknown", reason = "", message = "" }
local stalled = conditions.Stalled

if succeeded.status == "True" then
  return { status = "Healthy", message = succeeded.message }
end
if succeeded.status == "False" then
  return { status = "Degraded", message = succeeded.message }
end
if stalled ~= nil and stalled.status == "True" then
  return { status = "Degraded", message = stalled.message }
end
if obj.spec.suspend or succeeded.reason == "Suspended" then
  return { status = "Suspended", message = succeeded.message }
end
return { status = "Progressing", message = succeeded.message }
