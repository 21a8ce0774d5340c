/*-------------------------------------------------------------------------
 *
 * debug_point.c
 *	  Named places in the code at which a test can stop or break a session.
 *
 * The setting rehome.debug_point (superusers only) holds "name:action".  When
 * a session reaches that name it raises an error ("error"), ends ("exit"),
 * kills itself without any cleanup ("crash", which restarts the server like
 * any crashed backend), or waits for the advisory lock (21064, 1), which the
 * test holds, and releases it again ("wait").  Without the setting a debug
 * point costs one comparison.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <unistd.h>

#include "guc.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "util/debug_point.h"

/*
 * rehome_debug_point does what rehome.debug_point asks for at this name.
 */
void
rehome_debug_point(const char *name)
{
	const char *setting = rehome_debug_point_setting;
	size_t		len;
	const char *action;

	if (setting == NULL || setting[0] == '\0')
		return;
	len = strlen(name);
	if (strncmp(setting, name, len) != 0 || setting[len] != ':')
		return;
	action = setting + len + 1;

	if (strcmp(action, "error") == 0)
		ereport(ERROR,
				errcode(ERRCODE_INTERNAL_ERROR),
				errmsg("debug point \"%s\" reached", name));
	else if (strcmp(action, "exit") == 0)
		ereport(FATAL,
				errcode(ERRCODE_ADMIN_SHUTDOWN),
				errmsg("debug point \"%s\" reached", name));
	else if (strcmp(action, "crash") == 0)
		kill(MyProcPid, SIGKILL);
	else if (strcmp(action, "wait") == 0)
	{
		LOCKTAG		tag;

		SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, REHOME_DEBUG_LOCK_CLASS,
							 REHOME_DEBUG_LOCK_OBJECT, 2);
		(void) LockAcquire(&tag, ShareLock, true, false);
		LockRelease(&tag, ShareLock, true);
	}
	else
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("unknown action \"%s\" of a debug point", action),
				errhint("Actions are error, exit, crash and wait."));
}
