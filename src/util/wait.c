/*-------------------------------------------------------------------------
 *
 * wait.c
 *	  Waiting for time to pass.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "util/wait.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

/*
 * rehome_pause_for waits for so many milliseconds; interruptible, and, in a
 * background worker, awake for configuration changes.
 */
void
rehome_pause_for(long ms)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);

	for (;;)
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);

		if (left <= 0)
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 left, REHOME_WAIT_EVENT);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (MyBackendType == B_BG_WORKER && ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
	}
}

/*
 * rehome_back_off waits before the next attempt at something: 20 ms, doubled
 * each time, at most a second.
 */
void
rehome_back_off(int attempt)
{
	rehome_pause_for(Min(1000L, 20L << Min(attempt, 6)));
}

/*
 * rehome_limit_lock_waits has no lock waited for any longer than that (at least
 * a millisecond: none would be for ever), until the caller leaves its level of
 * settings.
 */
void
rehome_limit_lock_waits(long ms)
{
	(void) set_config_option("lock_timeout", psprintf("%ld", Max(ms, 1)), PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}
