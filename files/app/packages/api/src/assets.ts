import {
  DeleteObjectCommand,
  GetObjectCommand,
  HeadBucketCommand,
  ListBucketsCommand,
  PutObjectCommand,
  S3Client,
} from "@aws-sdk/client-s3";
import type { ProbeCheck } from "@campaign/shared";
import type { Settings } from "./config.ts";

export interface Asset {
  body: Uint8Array;
  contentType: string;
}

/** The bucket of campaign assets. */
export class Assets {
  readonly #client: S3Client;
  readonly #bucket: string;

  constructor(private readonly settings: Settings) {
    this.#client = this.connect(settings.S3_ACCESS_KEY, settings.S3_SECRET_KEY);
    this.#bucket = settings.S3_BUCKET;
  }

  private connect(accessKeyId: string, secretAccessKey: string): S3Client {
    return new S3Client({
      endpoint: this.settings.S3_ENDPOINT,
      region: this.settings.S3_REGION,
      credentials: { accessKeyId, secretAccessKey },
      // MinIO and most S3 servers that people run themselves have no wildcard host names.
      forcePathStyle: this.settings.S3_PATH_STYLE,
      maxAttempts: 2,
    });
  }

  async put(key: string, asset: Asset): Promise<void> {
    await this.#client.send(
      new PutObjectCommand({ Bucket: this.#bucket, Key: key, Body: asset.body, ContentType: asset.contentType }),
    );
  }

  async get(key: string): Promise<Uint8Array> {
    const { Body } = await this.#client.send(new GetObjectCommand({ Bucket: this.#bucket, Key: key }));
    return (await Body?.transformToByteArray()) ?? new Uint8Array();
  }

  async remove(key: string): Promise<void> {
    await this.#client.send(new DeleteObjectCommand({ Bucket: this.#bucket, Key: key }));
  }

  /** Fail unless the bucket answers to the api's own key. */
  async check(): Promise<void> {
    await this.#client.send(new HeadBucketCommand({ Bucket: this.#bucket }));
  }

  close(): void {
    this.#client.destroy();
  }

  /** What the probe asks: a round trip, and two refusals. */
  checks(): Record<string, ProbeCheck> {
    const accepted = async (accessKey: string, secretKey: string, allBuckets: boolean): Promise<string> => {
      const client = this.connect(accessKey, secretKey);
      try {
        await (allBuckets
          ? client.send(new ListBucketsCommand({}))
          : client.send(new GetObjectCommand({ Bucket: this.#bucket, Key: "probe/none" })));
        return "accepted";
      } finally {
        client.destroy();
      }
    };
    return {
      s3: async ({ nonce }) => {
        const key = `probe/${nonce}`;
        await this.put(key, { body: Buffer.from(nonce), contentType: "text/plain" });
        const got = Buffer.from(await this.get(key)).toString();
        await this.remove(key);
        return got;
      },
      s3_default_credentials: () => accepted("minioadmin", "minioadmin", true),
      s3_wrong_secret: ({ nonce }) => accepted(this.settings.S3_ACCESS_KEY, nonce, false),
    };
  }
}
