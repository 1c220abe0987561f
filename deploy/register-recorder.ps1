# Registers the recorder as a Windows task that starts with the machine and is started again when it ends.
# After a kill the next start recovers what was journaled. Run once, as administrator:
#   powershell -ExecutionPolicy Bypass -File register-recorder.ps1 -Tapeguard C:\tapeguard\Scripts\tapeguard.exe
param(
    [Parameter(Mandatory)][string]$Tapeguard,
    [string[]]$Symbols = @("BTCUSDT"),
    [string]$Data = "$env:ProgramData\tapeguard"
)
New-Item -ItemType Directory -Force $Data | Out-Null
icacls $Data /grant "NT AUTHORITY\LOCAL SERVICE:(OI)(CI)M" | Out-Null
$arguments = "record $($Symbols -join ' ') --data `"$Data`" --quiet"
$action = New-ScheduledTaskAction -Execute $Tapeguard -Argument $arguments -WorkingDirectory $Data
$trigger = New-ScheduledTaskTrigger -AtStartup
$settings = New-ScheduledTaskSettingsSet -RestartCount 999 -RestartInterval (New-TimeSpan -Minutes 1) `
    -ExecutionTimeLimit ([TimeSpan]::Zero) -StartWhenAvailable -MultipleInstances IgnoreNew
Register-ScheduledTask -TaskName "tapeguard recorder" -Action $action -Trigger $trigger -Settings $settings `
    -User "NT AUTHORITY\LOCAL SERVICE" -Force
