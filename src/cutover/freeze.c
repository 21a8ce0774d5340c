/*-------------------------------------------------------------------------
 *
 * freeze.c
 *	  What cutover and rollback share: the freeze, its limit and its length.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "capture/capture.h"
#include "cutover/cutover.h"
#include "errors.h"
#include "guc.h"
#include "util/spi.h"

/*
 * rehome_freeze_begin notes that writers wait from now on: for the source, too,
 * no longer than they may.  Where they are the source's, it lets them go by
 * itself, and grace is how many milliseconds it then has to tell us.
 */
void
rehome_freeze_begin(RehomeFreeze *freeze, int grace)
{
	freeze->began = GetCurrentTimestamp();
	freeze->event = 0;
	rehome_conn_limit(TimestampTzPlusMilliseconds(freeze->began, (int64) rehome_freeze_timeout + grace));
}

static int64
freeze_ms(RehomeFreeze *freeze)
{
	return TimestampDifferenceMilliseconds(freeze->began, GetCurrentTimestamp());
}

/*
 * rehome_freeze_check raises when writers have waited long enough.
 */
void
rehome_freeze_check(RehomeFreeze *freeze, const char *step)
{
	if (freeze_ms(freeze) <= rehome_freeze_timeout)
		return;
	ereport(ERROR,
			errcode(ERRCODE_REHOME_FREEZE_TIMEOUT),
			errmsg("writers would have waited longer than rehome.freeze_timeout (%d ms)",
				   rehome_freeze_timeout),
			errdetail("%lld ms had passed after: %s. They go on as if nothing had been.",
					  (long long) freeze_ms(freeze), step),
			errhint("Try again at a quieter time, or raise rehome.freeze_timeout."));
}

/*
 * rehome_freeze_rethrow, called in a PG_CATCH, raises the error on hand.  If
 * writers have waited long enough, and it is one by which the source has made
 * an end of that, it says so instead.
 */
void
rehome_freeze_rethrow(RehomeFreeze *freeze)
{
	int			code = geterrcode();

	if (freeze_ms(freeze) > rehome_freeze_timeout &&
		(ERRCODE_TO_CATEGORY(code) == ERRCODE_CONNECTION_EXCEPTION ||
		 code == ERRCODE_QUERY_CANCELED || code == ERRCODE_IDLE_IN_TRANSACTION_SESSION_TIMEOUT))
	{
		FlushErrorState();
		rehome_freeze_check(freeze, "the source had made an end of it");
	}
	PG_RE_THROW();
}

/*
 * rehome_freeze_detail returns the detail of the event that ends a freeze:
 * its length so far, the rows of the final batch, and the rules.
 */
char *
rehome_freeze_detail(RehomeFreeze *freeze, int64 rows)
{
	return psprintf("{\"freeze\": \"%.3f seconds\", \"rows\": " INT64_FORMAT "%s}",
					freeze_ms(freeze) / 1000.0, rows,
					freeze->rules ? psprintf(", \"rules\": \"%s\"", freeze->rules) : "");
}

/*
 * rehome_freeze_record corrects the length stored with the event, right after
 * both sides have committed, and tells it.  Writers went on when the
 * transaction that is open now began.
 */
void
rehome_freeze_record(RehomeFreeze *freeze)
{
	char	   *length = psprintf("%.3f seconds",
								  TimestampDifferenceMilliseconds(freeze->began, GetCurrentTransactionStartTimestamp()) / 1000.0);

	rehome_spi("UPDATE rehome.event SET detail = jsonb_set(detail, '{freeze}', to_jsonb($2))"
			   " WHERE id = $1", "lt", freeze->event, length);
	ereport(NOTICE,
			errmsg("writers waited for %s", length));
}
