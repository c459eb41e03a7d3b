/** Attempts that the SDK makes where AWS throttles or fails, with pauses that grow. */
export const ATTEMPTS = 4;
/** How long a service waits for all of them, credentials included. */
export const LIMIT_MILLISECONDS = 20_000;

// By the name or code of an error; the first pattern that fits. Names are AWS's or the SDK's own and hold no value.
const REMEDIES: [RegExp, string][] = [
  [/^ResourceNotFound/, "there is no such secret. Check AWS_SECRETS_MANAGER_SECRET_ID and AWS_REGION"],
  [
    /^AccessDenied/,
    "reading it was denied. Allow the role secretsmanager:GetSecretValue on it, and kms:Decrypt on its key",
  ],
  [
    /Throttl|TooManyRequests|RequestLimit|SlowDown/,
    `the request was throttled ${ATTEMPTS} times. It is tried again when the service restarts`,
  ],
  [/^ExpiredToken/, "the credentials have expired. Check the role that this host has, and its clock"],
  [
    /UnrecognizedClient|Signature|InvalidClientToken|MissingAuthentication/,
    "the credentials were refused. Check the role that this host has, and its clock",
  ],
  [
    /Credentials|Token/,
    "there are no credentials. Give the host an instance role, and its metadata service a hop limit of 2",
  ],
  [/^InvalidRequest/, "the secret is in no state to be read. If it was marked for deletion, restore it"],
  [/^DecryptionFailure/, "its key cannot decrypt it. Check the KMS key, and kms:Decrypt of the role"],
  [/^(InvalidParameter|Validation)/, "the request was refused. Check AWS_SECRETS_MANAGER_SECRET_ID"],
  [
    /Timeout|Abort|^E[A-Z_]+$|Network/,
    "the service cannot be reached. Check AWS_REGION and the way out of the container's network",
  ],
];

/** An error's name or code, where it is one; a message is never taken, as it may hold anything. */
function nameOf(error: unknown): string {
  const { name, code, cause, errors } = error as { name?: string; code?: unknown; cause?: unknown; errors?: unknown[] };
  if (typeof code === "string" && /^E[A-Z_]{2,30}$/.test(code)) return code;
  if (name && /^[A-Za-z]{3,60}$/.test(name) && !["Error", "AggregateError"].includes(name)) return name;
  const inner = cause ?? errors?.[0];
  return inner === undefined || inner === error ? "an unusable answer" : nameOf(inner);
}

/** What an error of the SDK means and what to do about it, without a value. */
export function explainAwsError(error: unknown): string {
  const name = nameOf(error);
  const remedy = REMEDIES.find(([pattern]) => pattern.test(name))?.[1] ?? "the answer is not usable. Try again later";
  return `${remedy} (${name})`;
}

/** Ask AWS Secrets Manager. The SDK takes credentials, endpoint and proxy from its usual places. */
export async function fetchFromAws(id: string, region: string): Promise<string> {
  const { GetSecretValueCommand, SecretsManagerClient } = await import("@aws-sdk/client-secrets-manager");
  const client = new SecretsManagerClient({
    region,
    maxAttempts: ATTEMPTS,
    retryMode: "standard",
    requestHandler: { connectionTimeout: 3000, requestTimeout: 5000, throwOnRequestTimeout: true },
  });
  try {
    const { SecretString } = await client.send(new GetSecretValueCommand({ SecretId: id }));
    // Binary data; the reader says what it needs.
    return SecretString ?? "";
  } finally {
    client.destroy();
  }
}

/** Fail when work lasts longer than a limit. */
export async function within<Result>(milliseconds: number, work: Promise<Result>): Promise<Result> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(Object.assign(new Error("too slow"), { name: "TimeoutError" })), milliseconds);
  });
  try {
    return await Promise.race([work, limit]);
  } finally {
    clearTimeout(timer);
  }
}
